"""Columns for what stays of a job after its end: title, method, path, on request its request, its file, and the kind of its error."""

from django.db import migrations, models

import backjob.django.fields


class Migration(migrations.Migration):
    dependencies = [("backjob", "0004_runs")]

    operations = [
        migrations.AddField("job", "title", backjob.django.fields.ExactField(max_length=255, null=True)),
        migrations.AddField(
            "job", "method", backjob.django.fields.ExactField(db_default="", default="", max_length=20)
        ),
        migrations.AddField("job", "keep_request", models.SmallIntegerField(default=0, db_default=0)),
        migrations.AddField("job", "error", backjob.django.fields.ExactField(max_length=255, null=True)),
        migrations.AddField("job", "path", models.TextField(null=True)),
        migrations.AddField("job", "file", models.TextField(null=True)),
    ]
