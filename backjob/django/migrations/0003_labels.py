"""Columns for the label of an application, the proof of a row, the root of a chain, and why a job waits."""

from django.db import migrations, models

import backjob.django.fields


class Migration(migrations.Migration):
    dependencies = [
        ("backjob", "0002_status_words"),
    ]

    operations = [
        migrations.RemoveIndex(
            model_name="job",
            name="backjob_job_due",
        ),
        migrations.RemoveIndex(
            model_name="job",
            name="backjob_job_ageing",
        ),
        migrations.AddField(
            model_name="job",
            name="label",
            field=backjob.django.fields.ExactField(db_default="", default="", max_length=128),
        ),
        migrations.AddField(
            model_name="job",
            name="proof",
            field=backjob.django.fields.ExactField(max_length=128, null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="root",
            field=backjob.django.fields.ExactField(max_length=128, null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="waiting_for",
            field=backjob.django.fields.ExactField(max_length=128, null=True),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(fields=["status", "label", "start_time"], name="backjob_job_due"),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(fields=["status", "label", "end_time"], name="backjob_job_ageing"),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(fields=["root"], name="backjob_job_root"),
        ),
    ]
