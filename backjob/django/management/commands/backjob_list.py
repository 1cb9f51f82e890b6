"""``manage.py backjob_list``."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from backjob.cli.console import job_line
from backjob.django.site import jobs
from backjob.errors import BackJobError
from backjob.model import Status


class Command(BaseCommand):
    """List jobs."""

    help = "List jobs, the newest first: id, status, progress, due time, scope, owner, text."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--scope", help="only jobs of this scope")
        parser.add_argument("--owner", help="only jobs of this owner")
        parser.add_argument("--status", type=str.upper, choices=[status.name for status in Status])
        parser.add_argument("--limit", type=int, default=50, help="at most so many (50)")

    def handle(self, *_args: Any, **options: Any) -> None:
        status = None if options["status"] is None else Status[options["status"]]
        try:
            found = jobs.find(options["scope"], status, options["owner"], options["limit"])
        except BackJobError as error:
            raise CommandError(str(error)) from error
        for state in found:
            self.stdout.write(job_line(state))
