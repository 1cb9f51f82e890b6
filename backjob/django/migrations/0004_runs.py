"""Columns for runs, retries, slices and queues, and for the time limits of waiting jobs."""

from typing import Any

from django.db import migrations, models

import backjob.django.fields


def set_limits(apps: Any, editor: Any) -> None:
    """Before the migration is reversed: the earlier version knows no job without this limit."""
    jobs = apps.get_model("backjob", "Job").objects.using(editor.connection.alias)
    jobs.filter(deliver_by=None).update(deliver_by=models.F("start_time") + 600_000_000)


class Migration(migrations.Migration):
    dependencies = [("backjob", "0003_labels")]

    operations = [
        migrations.AlterField("job", "deliver_by", models.BigIntegerField(null=True)),
        migrations.RunPython(migrations.RunPython.noop, set_limits),
        migrations.AddField("job", "run", models.IntegerField(default=1, db_default=1)),
        migrations.AddField("job", "delivery", models.IntegerField(default=1, db_default=1)),
        migrations.AddField("job", "retries", models.IntegerField(default=0, db_default=0)),
        migrations.AddField("job", "retry_delay", models.BigIntegerField(default=10000000, db_default=10000000)),
        migrations.AddField(
            "job",
            "queue",
            backjob.django.fields.ExactField(db_default="default", default="default", max_length=255),
        ),
        migrations.AddField("job", "slot", backjob.django.fields.ExactField(max_length=128, null=True, unique=True)),
        migrations.AddField("job", "as_owner", models.SmallIntegerField(default=0, db_default=0)),
        migrations.AddField("job", "claimed_time", models.BigIntegerField(null=True)),
        migrations.AddField("job", "expires", models.BigIntegerField(null=True)),
        migrations.AddField("job", "history", models.TextField(null=True)),
        migrations.AddField("job", "cursor", models.TextField(null=True)),
        migrations.AddIndex(
            "job", models.Index(fields=["status", "label", "deliver_by", "expires"], name="backjob_job_limits")
        ),
    ]
