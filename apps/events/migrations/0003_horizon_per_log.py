from django.db import migrations, models


def make_horizon(apps, schema_editor):
    """It starts at zero and finds its place again with the first reading: readers keep their own positions."""
    apps.get_model("events", "Horizon").objects.get_or_create(log="events_event")


class Migration(migrations.Migration):
    dependencies = [("events", "0002_partitions")]

    operations = [
        migrations.DeleteModel(name="Horizon"),
        migrations.CreateModel(
            name="Horizon",
            fields=[
                ("log", models.CharField(max_length=63, primary_key=True, serialize=False)),
                ("safe_id", models.BigIntegerField(default=0, help_text="Everything up to this id is decided.")),
                ("mark_id", models.BigIntegerField(default=0, help_text="The last id drawn when the mark was set.")),
                ("mark_xact", models.BigIntegerField(default=0, help_text="The mark is safe when all transactions below are decided.")),
            ],
        ),
        migrations.RunPython(make_horizon, migrations.RunPython.noop),
    ]
