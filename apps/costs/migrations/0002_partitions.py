from django.db import migrations
from django.utils import timezone

from portal import partitions


def first_partitions(apps, schema_editor):
    partitions.make_partitions(apps.get_model("costs", "LedgerEntry"), today=timezone.now().date())


class Migration(migrations.Migration):
    dependencies = [("costs", "0001_initial")]

    operations = [
        partitions.RefuseChanges("costs_ledgerentry"),
        migrations.RunPython(first_partitions, migrations.RunPython.noop),
        # A hot row is rewritten thousands of times a second: room in its page keeps those updates off the indexes.
        migrations.RunSQL(
            "ALTER TABLE costs_budgetperiod SET (fillfactor = 40, autovacuum_vacuum_scale_factor = 0.02)",
            "ALTER TABLE costs_budgetperiod RESET (fillfactor, autovacuum_vacuum_scale_factor)",
        ),
    ]
