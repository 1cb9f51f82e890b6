"""``manage.py backjob …``: `backjob.cli` with the site's jobs."""

from __future__ import annotations

import sys
from argparse import REMAINDER
from contextlib import redirect_stdout
from typing import Any, TextIO, cast

from django.core.management.base import BaseCommand, CommandError, CommandParser

from backjob.cli.program import main, run
from backjob.django.site import jobs
from backjob.errors import BackJobError

_PROG = "manage.py backjob"


class Command(BaseCommand):
    """Pass the arguments to `backjob.cli`, ``--help`` included."""

    help = "List, show, watch and cancel background jobs, and more."

    def run_from_argv(self, argv: list[str]) -> None:
        """Run from the command line, without ``--settings`` and ``--pythonpath``, which Django has already applied."""
        django = CommandParser(add_help=False, allow_abbrev=False)
        django.add_argument("--settings")
        django.add_argument("--pythonpath")
        _, arguments = django.parse_known_args(argv[2:])
        sys.exit(main(arguments, jobs=jobs, prog=_PROG))

    def print_help(self, prog_name: str, subcommand: str) -> None:  # noqa: ARG002 - Django's signature
        """Answer ``manage.py help backjob``."""
        main(["--help"], jobs=jobs, prog=_PROG)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("arguments", nargs=REMAINDER)

    def handle(self, *_args: Any, **options: Any) -> None:
        """Run from ``call_command("backjob", …)``. Raises `CommandError` after an error, or if the exit code is not 0."""
        self.stdout.ending = ""
        with redirect_stdout(cast("TextIO", self.stdout)):
            try:
                code = run(options["arguments"], jobs=jobs, prog=_PROG)
            except BackJobError as error:
                raise CommandError(str(error)) from error
        if code:
            raise CommandError(f"backjob ended with exit code {code}", returncode=code)
