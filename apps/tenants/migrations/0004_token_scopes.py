import django.contrib.postgres.fields
from django.db import migrations, models

import portal.ids


def give_ids(apps, schema_editor):
    for token in apps.get_model("tenants", "ApiToken").objects.filter(uid=None):
        token.uid = portal.ids.uuid7()
        token.save(update_fields=["uid"])


class Migration(migrations.Migration):
    dependencies = [("tenants", "0003_swarm_grants")]

    operations = [
        migrations.AddField(
            model_name="apitoken",
            name="name",
            field=models.CharField(blank=True, default="", help_text="What it is for.", max_length=100),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="apitoken",
            name="permissions",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=40), blank=True, default=list, size=None
            ),
        ),
        # Tokens that exist get an id each before ids must differ.
        migrations.AddField(
            model_name="apitoken", name="uid", field=models.UUIDField(editable=False, null=True)
        ),
        migrations.RunPython(give_ids, migrations.RunPython.noop),
        migrations.AlterField(
            model_name="apitoken",
            name="uid",
            field=models.UUIDField(
                default=portal.ids.uuid7, editable=False, help_text="What the API knows it by.", unique=True
            ),
        ),
    ]
