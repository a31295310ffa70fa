from django.db import migrations


def make_pool(apps, schema_editor):
    apps.get_model("swarms", "ResourcePool").objects.get_or_create(id=1)


class Migration(migrations.Migration):
    dependencies = [("swarms", "0002_initial")]

    operations = [migrations.RunPython(make_pool, migrations.RunPython.noop)]
