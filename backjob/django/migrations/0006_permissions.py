"""Permissions to delete jobs, to run them again, and to see the arguments and tracebacks of tasks."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("backjob", "0005_titles")]

    operations = [
        migrations.AlterModelOptions(
            "job",
            {
                "default_permissions": ("view", "delete"),
                "ordering": ["-seq"],
                "permissions": [
                    ("cancel_job", "Can cancel job"),
                    ("run_again_job", "Can run job again"),
                    ("inspect_job", "Can see arguments and tracebacks of tasks"),
                ],
                "verbose_name": "job",
                "verbose_name_plural": "jobs",
            },
        ),
    ]
