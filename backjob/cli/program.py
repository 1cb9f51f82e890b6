"""The program: parses a command line, runs the command, and turns errors into exit codes.

``backjob``, ``flask backjob`` and ``manage.py backjob`` are this one program. A framework passes the jobs of its
application; without them, the options ``--store`` and ``--app`` choose the jobs.
"""

from __future__ import annotations

import io
import os
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from typing import Final, NoReturn, TextIO

from backjob import __version__
from backjob.cli import commands
from backjob.cli.findings import EXIT_CODES as DOCTOR_EXIT_CODES
from backjob.cli.opening import PREFIX
from backjob.errors import BackJobError, InvalidRequest, JobNotFound, StoreUnavailable
from backjob.jobs import BackJob
from backjob.model import Status

COMMANDS: Final = ("list", "show", "watch", "cancel", "cleanup", "monitor", "doctor", "schema")
"""The commands that every front end has; ``demo`` is only in ``backjob`` itself."""

_NO_SUCH_JOB: Final = 3
_USAGE: Final = 64
_UNAVAILABLE: Final = 69
_CONFIGURATION: Final = 78
_BROKEN_PIPE: Final = 141

_EXIT_CODES: Final = f"""\
exit codes:
  0    success; watch: the job is COMPLETED
  1    watch: the job FAILED; cancel: it had already ended
  2    watch: the job was CANCELLED
  {_NO_SUCH_JOB}    no job has this id
  10…  doctor: the first problem, see doctor --help
  {_USAGE}   wrong usage, or a wrong setting
  {_UNAVAILABLE}   the store is unavailable at the moment
  {_CONFIGURATION}   the store or the configuration is unusable
  {commands.INTERRUPTED}  Ctrl-C
  {_BROKEN_PIPE}  the reader of a pipe closed it
"""
_ENVIRONMENT: Final = f"""
settings come from the environment, under their usual names: {PREFIX}STORE, {PREFIX}BASE_URL, {PREFIX}KEY,
{PREFIX}RETENTION_DAYS and so on; with --app they come from the application instead
"""


def main(arguments: Sequence[str] | None = None, *, jobs: BackJob | None = None, prog: str = "backjob") -> int:
    """Run a command line (by default ``sys.argv``), print any error, and return the exit code.

    ``jobs`` are those of a framework's application, and ``prog`` is how its users call this program. Wrong usage and
    ``--help`` raise `SystemExit`, as usual with argparse.
    """
    try:
        return run(arguments, jobs=jobs, prog=prog)
    except BackJobError as error:
        sys.stderr.write(f"{prog}: {error}\n")
        return exit_code(error)


def run(arguments: Sequence[str] | None, *, jobs: BackJob | None, prog: str) -> int:
    """Like `main`, but raise `BackJobError` for the caller to print."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # print an escape instead of failing
    parsed = _parser(prog, jobs).parse_args(arguments)
    try:
        code: int = parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard(sys.stdout)
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return commands.INTERRUPTED
    return code


def exit_code(error: BackJobError) -> int:
    """Return the exit code for an error."""
    if isinstance(error, InvalidRequest):
        return _USAGE
    if isinstance(error, JobNotFound):
        return _NO_SUCH_JOB
    return _UNAVAILABLE if isinstance(error, StoreUnavailable) else _CONFIGURATION


def _discard(stream: TextIO) -> None:
    """Redirect a closed pipe to /dev/null, so that the interpreter's final flush does not fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


class _Parser(ArgumentParser):
    """Exits with 64 after wrong usage: argparse would exit with 2, which means a cancelled job here."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(_USAGE, f"{self.prog}: {message}\n")


def _parser(prog: str, jobs: BackJob | None) -> ArgumentParser:
    parser = _Parser(
        prog=prog,
        description="Background jobs of a web application, run by HTTP requests to itself.",
        epilog=_EXIT_CODES if jobs is not None else _EXIT_CODES + _ENVIRONMENT,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"backjob {__version__}")
    parser.set_defaults(jobs=jobs, app=None, store=None, prog=prog)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, function: Callable[[Namespace], int], text: str, epilog: str | None = None, *, source: bool = True
    ) -> ArgumentParser:
        added = subparsers.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=epilog,
            formatter_class=RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=function)
        if source and jobs is None:
            _add_source(added)
        return added

    if jobs is None:
        _add_demo(
            add("demo", commands.run_demo, "serve a small site, start a job there, and watch it here", source=False)
        )
    _add_filters(add("list", commands.list_jobs, "list jobs, newest first"))
    _add_job(add("show", commands.show_job, "show a job and its output"))
    ends = (
        "Ctrl-C stops watching; the job continues.\n\n"
        "exit codes: 0 COMPLETED, 1 FAILED, 2 CANCELLED, 3 no such job, 130 Ctrl-C"
    )
    add("watch", commands.watch_job, "print a job's output and progress until it ends", ends).add_argument(
        "job_id", metavar="ID"
    )
    _add_job(add("cancel", commands.cancel_job, "cancel a job; a running action stops at its next update"))
    ages = f"ages: {PREFIX}COMPLETED_RETENTION_DAYS (30) and {PREFIX}RETENTION_DAYS (60)"
    _add_json(
        add("cleanup", commands.clean_up, "remove jobs past their retention age, as monitors do every hour", ages)
    )
    needs = f"needs {PREFIX}BASE_URL, and without an application also {PREFIX}KEY and a store"
    add("monitor", commands.run_monitor_here, "deliver jobs from this process, for a site without traffic", needs)
    _add_doctor(
        add(
            "doctor",
            commands.examine_application,
            "check that worker requests reach the application",
            DOCTOR_EXIT_CODES,
        )
    )
    _add_schema(add("schema", commands.print_schema, "print the SQL that creates a store's tables", source=False))
    return parser


def _add_source(parser: ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--store", metavar="URL", help=f"the jobs' store, such as sqlite:///jobs.db (default: {PREFIX}STORE)"
    )
    source.add_argument("--app", metavar="MODULE:JOBS", help="the application's BackJob, such as myapp:jobs")


def _add_json(parser: ArgumentParser, text: str = "print a JSON object") -> None:
    parser.add_argument("--json", action="store_true", help=text)


def _add_job(parser: ArgumentParser) -> None:
    parser.add_argument("job_id", metavar="ID")
    _add_json(parser)


def _add_demo(parser: ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="run one job, print it, and exit with its code")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="the port; 0 picks a free one (default %(default)s)")
    parser.add_argument("--fail", action="store_true", help=SUPPRESS)


def _add_filters(parser: ArgumentParser) -> None:
    parser.add_argument("--status", type=_status, help="started, in_progress, completed, failed or cancelled")
    parser.add_argument("--scope", help="only jobs with this scope")
    parser.add_argument("--owner", help="only jobs of this owner")
    parser.add_argument("--limit", type=int, default=50, help="at most this many jobs, 1 to 1000 (default %(default)s)")
    parser.add_argument("--before", metavar="ID", help="only jobs older than this one")
    _add_json(parser, "print one JSON object per line")


def _add_doctor(parser: ArgumentParser) -> None:
    parser.add_argument("url", nargs="?", help=f"the base URL (default: {PREFIX}BASE_URL, or the application's)")
    parser.add_argument(
        "--connect-to", metavar="ADDRESS", help="where the server listens, if elsewhere: host:port, unix:/path"
    )
    parser.add_argument("--path", default="/", help="a route to request with GET (default %(default)s)")
    parser.add_argument("--method", action="append", default=[], help="try this method too; may be repeated")
    parser.add_argument(
        "--timeout", type=_seconds, default=10.0, help="seconds to wait for each answer (default %(default)s)"
    )
    _add_json(parser, "print one JSON object per line")


def _add_schema(parser: ArgumentParser) -> None:
    parser.add_argument("--dialect", required=True, help="postgresql, mysql, mariadb or sqlite")
    parser.add_argument("--table-name", default="backjob", metavar="NAME", help="the jobs' table (default %(default)s)")
    parser.add_argument("--schema", metavar="NAME", help="the tables' schema (default: the connection's)")


def _status(text: str) -> Status:
    try:
        return Status[text.upper().replace("-", "_")]
    except KeyError:
        known = ", ".join(status.name.lower() for status in Status)
        raise ArgumentTypeError(f"{text!r} is not one of {known}") from None


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 3600:
        raise ArgumentTypeError("must be more than 0 s and at most 3600 s")
    return seconds
