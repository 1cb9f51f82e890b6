"""``manage.py backjob_doctor``."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from backjob.cli import doctor
from backjob.django.site import jobs
from backjob.errors import BackJobError
from backjob.transports.sockets import SocketTransport


class Command(BaseCommand):
    """Ask the site whether worker requests reach it."""

    help = f"Ask the running site whether worker requests reach it, and say what is wrong. {doctor.EXIT_CODES}"
    requires_system_checks = ()  # where a check fails, the doctor is wanted

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("url", nargs="?", help='its base URL (BACKJOB["BASE_URL"])')
        parser.add_argument("--connect-to", metavar="ADDRESS", help="where it listens, if elsewhere")
        parser.add_argument("--path", default="/", help="a route to ask for by GET (/)")
        parser.add_argument("--method", action="append", default=[], help="try this method too; may be repeated")
        parser.add_argument("--timeout", type=_seconds, default=10.0, help="s to wait for each answer (10)")

    def handle(self, *_args: Any, **options: Any) -> None:
        given = getattr(settings, "BACKJOB", {})
        url = options["url"] or given.get("BASE_URL")
        if url is None:
            raise CommandError('where is the site? Give its base URL, or set BACKJOB["BASE_URL"]')
        # An address belongs to the URL it is set with.
        connect_to = options["connect_to"] or (None if options["url"] else given.get("CONNECT_TO"))
        try:
            code = self._examine(url, connect_to, options)
        except BackJobError as error:
            raise CommandError(str(error)) from error
        if code:
            sys.exit(code)

    def _examine(self, url: str, connect_to: str | None, options: dict[str, Any]) -> int:
        """Write each finding; the exit code of the first problem, or 0."""
        code = 0
        transport = SocketTransport(url, connect_to, connect_timeout=options["timeout"])
        try:
            for finding in doctor.examine(
                transport,
                url,
                path=options["path"],
                methods=tuple(options["method"]),
                signer=jobs.signer,
                jobs=jobs,
                timeout=options["timeout"],
            ):
                self.stdout.write(str(finding))
                code = code or int(finding.problem or 0)
        finally:
            transport.close()
        return code


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 3600:
        raise ArgumentTypeError("more than 0 and at most 3600 s are needed")
    return seconds
