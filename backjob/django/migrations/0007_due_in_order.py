"""The index of due jobs in the order in which monitors take them, so that no database sorts a backlog."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("backjob", "0006_permissions")]

    operations = [
        migrations.RemoveIndex("job", "backjob_job_due"),
        migrations.AddIndex(
            "job", models.Index(fields=["status", "label", "start_time", "seq"], name="backjob_job_due")
        ),
    ]
