"""The admin shows the words of the status page for each status. Nothing changes in the database."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("backjob", "0001_initial")]

    operations = [
        migrations.AlterField(
            model_name="job",
            name="status",
            field=models.SmallIntegerField(
                choices=[(0, "Waiting to start"), (1, "Running"), (2, "Done"), (3, "Failed"), (4, "Cancelled")]
            ),
        ),
    ]
