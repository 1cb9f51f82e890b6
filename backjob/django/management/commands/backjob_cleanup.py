"""``manage.py backjob_cleanup``."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from backjob.django.site import jobs
from backjob.errors import BackJobError


class Command(BaseCommand):
    """Remove old jobs."""

    help = "Remove jobs past their retention time."

    def handle(self, *_args: Any, **_options: Any) -> None:
        try:
            removed = jobs.cleanup()
        except BackJobError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"removed {removed} {'job' if removed == 1 else 'jobs'}")
