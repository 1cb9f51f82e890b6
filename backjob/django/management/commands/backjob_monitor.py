"""``manage.py backjob_monitor``."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from backjob.cli.console import run_monitor
from backjob.django.site import jobs
from backjob.errors import AddressUnknown, BackJobError


class Command(BaseCommand):
    """Deliver and watch jobs."""

    help = 'Deliver jobs and watch over them until Ctrl-C: for a site without traffic. Needs BACKJOB["BASE_URL"].'

    def handle(self, *_args: Any, **_options: Any) -> None:
        try:
            run_monitor(jobs)
        except AddressUnknown as error:
            raise CommandError(f'{error}: BACKJOB["BASE_URL"]') from error
        except BackJobError as error:
            raise CommandError(str(error)) from error
