from django.db import migrations
from django.utils import timezone

from portal import partitions


def first_partitions(apps, schema_editor):
    partitions.make_partitions(apps.get_model("costs", "LedgerEntry"), today=timezone.now().date())


class Migration(migrations.Migration):
    dependencies = [("costs", "0002_initial")]

    operations = [
        partitions.RefuseChanges("costs_ledgerentry"),
        migrations.RunPython(first_partitions, migrations.RunPython.noop),
    ]
