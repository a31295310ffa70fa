from django.db import migrations
from django.utils import timezone

from portal import partitions


def first_partitions(apps, schema_editor):
    partitions.make_partitions(apps.get_model("events", "Event"), today=timezone.now().date())


def make_horizon(apps, schema_editor):
    apps.get_model("events", "Horizon").objects.get_or_create(id=1)


class Migration(migrations.Migration):
    dependencies = [("events", "0001_initial")]

    operations = [
        # An id is drawn only by a transaction that has its transaction id already; the horizon rests on that.
        migrations.RunSQL(
            "ALTER TABLE events_event ALTER COLUMN id SET DEFAULT "
            "CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('events_event_id_seq') END",
            migrations.RunSQL.noop,
        ),
        migrations.RunPython(make_horizon, migrations.RunPython.noop),
        migrations.RunPython(first_partitions, migrations.RunPython.noop),
    ]
