from django.db import migrations
from django.utils import timezone

from portal import partitions


def first_partitions(apps, schema_editor):
    partitions.make_partitions(apps.get_model("events", "Event"), today=timezone.now().date())


class Migration(migrations.Migration):
    dependencies = [("events", "0001_initial")]

    operations = [
        migrations.RunPython(first_partitions, migrations.RunPython.noop),
    ]
