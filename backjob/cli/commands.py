"""The command line: ``backjob demo``, ``list``, ``show``, ``watch``, ``cancel``, ``cleanup``, ``monitor``, ``doctor`` and
``schema``.

`main` parses, does what is asked, and returns the exit code; what a command is about lies in `console`, `demo` and
`doctor`.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final, NoReturn, TextIO

from backjob import __version__
from backjob.cli import doctor
from backjob.cli.console import job_details, job_line, run_monitor, whole_output
from backjob.cli.demo import server as demo
from backjob.cli.following import EXIT_CODES, INTERRUPTED, NO_SUCH_JOB, watch
from backjob.cli.opening import PREFIX, application, delivering, looking, settings_of_environment
from backjob.errors import BackJobError, InvalidRequest, JobNotFound, StoreUnavailable
from backjob.model import Status
from backjob.signing import MessageSigner
from backjob.stores.sqlite import SQLiteStore
from backjob.transports.sockets import SocketTransport

__all__ = ["main"]

_USAGE: Final = 64
_UNAVAILABLE: Final = 69
_CONFIGURATION: Final = 78
_BROKEN_PIPE: Final = 141

_EPILOG: Final = f"""\
exit codes:
  {EXIT_CODES[Status.COMPLETED]}    done; of watch: the job is COMPLETED
  {EXIT_CODES[Status.FAILED]}    watch: the job FAILED; cancel: it had ended already
  {EXIT_CODES[Status.CANCELLED]}    watch: the job was CANCELLED
  {NO_SUCH_JOB}    no job has this id
  10…  doctor: the first problem, see backjob doctor --help
  {_USAGE}   the command line or a setting is wrong
  {_UNAVAILABLE}   the store does not answer at the moment
  {_CONFIGURATION}   the store or the configuration can't be used
  {INTERRUPTED}  Ctrl-C

settings: the environment is read, under the names that settings have everywhere: {PREFIX}STORE, {PREFIX}BASE_URL,
{PREFIX}KEY, {PREFIX}RETENTION_DAYS and so on. With --app the application's own count instead.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (``sys.argv`` by default), and return the exit code; ``backjob --help`` lists them.

    Wrong usage and ``--help`` leave by `SystemExit`, as argparse does it.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that can't show a character still shows the job
    parsed = _parser().parse_args(arguments)
    try:
        code: int = parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout)
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BackJobError as error:
        sys.stderr.write(f"backjob: {error}\n")
        return _code_of(error)
    return code


def _code_of(error: BackJobError) -> int:
    if isinstance(error, InvalidRequest):
        return _USAGE
    if isinstance(error, JobNotFound):
        return NO_SUCH_JOB
    return _UNAVAILABLE if isinstance(error, StoreUnavailable) else _CONFIGURATION


def _silence(stream: TextIO) -> None:
    """Nobody reads any more: what the stream still holds goes nowhere, so that the interpreter's last flush succeeds."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


# --- the commands ---------------------------------------------------------------------------------------------------


def _list(args: Namespace) -> int:
    with looking(args.app, args.store) as jobs:
        found = jobs.find(scope=args.scope, status=args.status, owner=args.owner, limit=args.limit, before=args.before)
        for state in found:
            print(json.dumps(state.as_dict()) if args.json else job_line(state))
    return 0


def _show(args: Namespace) -> int:
    with looking(args.app, args.store) as jobs:
        if args.json:
            state = jobs.status(args.job_id)
            output, truncated = whole_output(jobs, args.job_id)
            print(json.dumps({**state.as_dict(), "output": output, "truncated": truncated}))
        else:
            print(job_details(jobs, args.job_id, escape=sys.stdout.isatty()))
    return 0


def _watch(args: Namespace) -> int:
    with looking(args.app, args.store) as jobs:
        return watch(jobs, args.job_id, sys.stdout, sys.stdin)


def _cancel(args: Namespace) -> int:
    with looking(args.app, args.store) as jobs:
        if jobs.cancel(args.job_id):
            print(f"cancelled {args.job_id}")
            return 0
        sys.stderr.write(f"backjob: {args.job_id} had ended already: {jobs.status(args.job_id).status.name}\n")
        return 1


def _cleanup(args: Namespace) -> int:
    with looking(args.app, args.store) as jobs:
        removed = jobs.cleanup()
    print(f"removed {removed} {'job' if removed == 1 else 'jobs'}")
    return 0


def _monitor(args: Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with delivering(args.app, args.store) as jobs:
        run_monitor(jobs)
    return 0


def _demo(args: Namespace) -> int:
    if args.once:
        return demo.run_once(sys.stdout, fail=args.fail)
    return demo.serve(sys.stdout, args.host, args.port)


def _doctor(args: Namespace) -> int:
    settings = settings_of_environment()
    url = args.url or settings.base_url
    if url is None:
        raise InvalidRequest("url", f"where is the application? Give its base URL, or set {PREFIX}BASE_URL")
    transport = SocketTransport(url, args.connect_to or settings.connect_to, connect_timeout=args.timeout)
    with ExitStack() as afterwards:
        afterwards.callback(transport.close)
        jobs, signer = None, None
        if args.app is not None:
            jobs = afterwards.enter_context(application(args.app))
            signer = jobs.signer
        elif settings.key is not None:
            signer = MessageSigner(settings.key, fallbacks=settings.key_fallbacks or ())
        if args.app is None and (args.store or settings.store):
            jobs = afterwards.enter_context(looking(None, args.store))
        code = 0
        for finding in doctor.examine(
            transport,
            url,
            path=args.path,
            methods=tuple(args.method),
            signer=signer,
            jobs=jobs,
            timeout=args.timeout,
        ):
            print(finding, flush=True)
            code = code or int(finding.problem or 0)
    return code


def _schema(args: Namespace) -> int:
    if args.dialect == "sqlite":
        if args.schema is not None:
            raise InvalidRequest("schema", "SQLite has no schemas")
        print(SQLiteStore.schema(args.table_name), end="")
        return 0
    from backjob.stores.sql import SQLStore  # noqa: PLC0415 - it needs an extra

    print(SQLStore.schema(args.dialect, table_name=args.table_name, schema=args.schema), end="")
    return 0


# --- the command line -----------------------------------------------------------------------------------------------


class _Parser(ArgumentParser):
    """Leaves with a usage code of its own: 2, argparse's, tells of a cancelled job here."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(_USAGE, f"{self.prog}: {message}\n")


def _status(text: str) -> Status:
    try:
        return Status[text.upper().replace("-", "_")]
    except KeyError:
        known = ", ".join(status.name.lower() for status in Status)
        raise ArgumentTypeError(f"{text!r} is none of {known}") from None


def _parser() -> ArgumentParser:
    parser = _Parser(
        prog="backjob",
        description="Background jobs of a web application, by requests to itself.",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"backjob {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Namespace], int], text: str, more: str | None = None) -> ArgumentParser:
        added = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=more,
            formatter_class=RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=run)
        return added

    def on_jobs(name: str, run: Callable[[Namespace], int], text: str, more: str | None = None) -> ArgumentParser:
        added = command(name, run, text, more)
        _add_source(added)
        return added

    added = command("demo", _demo, "serve a small page on this machine whose button starts a job, and watch one here")
    added.add_argument("--once", action="store_true", help="run one job, print it, and end; fails if the job does")
    added.add_argument("--host", default="127.0.0.1", help="where to listen (default %(default)s)")
    added.add_argument("--port", type=int, default=8000, help="0 takes any that is free (default %(default)s)")
    added.add_argument("--fail", action="store_true", help=SUPPRESS)

    added = on_jobs("list", _list, "list jobs, newest first")
    added.add_argument("--status", type=_status, help="started, in_progress, completed, failed or cancelled")
    added.add_argument("--scope", help="only jobs of this scope")
    added.add_argument("--owner", help="only jobs of this owner")
    added.add_argument("--limit", type=int, default=50, help="at most so many, 1 to 1000 (default %(default)s)")
    added.add_argument("--before", metavar="ID", help="the page that follows this job")
    added.add_argument("--json", action="store_true", help="one JSON object a line")

    added = on_jobs("show", _show, "show a job and its output")
    added.add_argument("job_id", metavar="ID")
    added.add_argument("--json", action="store_true", help="as one JSON object")

    watch_ends = (
        "Ctrl-C asks whether to leave the job running, to cancel it, or to go on.\n\n"
        "exit codes: 0 COMPLETED, 1 FAILED, 2 CANCELLED, 3 no such job, 130 left by Ctrl-C"
    )
    on_jobs("watch", _watch, "follow a job to its end", watch_ends).add_argument("job_id", metavar="ID")
    on_jobs("cancel", _cancel, "cancel a job; a running action learns of it at its next report").add_argument(
        "job_id", metavar="ID"
    )
    ages = f"ages: {PREFIX}COMPLETED_RETENTION_DAYS (30) and {PREFIX}RETENTION_DAYS (60), or the application's own"
    on_jobs("cleanup", _cleanup, "remove jobs past their retention age; a monitor does it every hour", ages)
    needs = f"without --app it needs {PREFIX}BASE_URL and {PREFIX}KEY beside the store"
    on_jobs("monitor", _monitor, "deliver and watch jobs in the foreground, for a site without traffic", needs)

    added = command("doctor", _doctor, "ask an application whether worker requests reach it", doctor.EXIT_CODES)
    added.add_argument("url", nargs="?", help=f"its base URL (default: {PREFIX}BASE_URL)")
    added.add_argument("--connect-to", metavar="ADDRESS", help="where it listens, if elsewhere: host:port, unix:/path")
    added.add_argument("--path", default="/", help="a route to ask for by GET (default %(default)s)")
    added.add_argument("--method", action="append", default=[], help="try this method too; may be repeated")
    added.add_argument("--timeout", type=_seconds, default=10.0, help="s to wait for each answer (default %(default)s)")
    _add_source(added)

    added = command("schema", _schema, "print the SQL that makes the tables of a store in a database")
    added.add_argument("--dialect", required=True, help="postgresql, mysql, mariadb or sqlite")
    added.add_argument("--table-name", default="backjob", metavar="NAME", help="(default %(default)s)")
    added.add_argument("--schema", metavar="NAME", help="the schema the tables are in (default: the connection's own)")
    return parser


def _add_source(parser: ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--store", metavar="URL", help=f"where the jobs are: sqlite:///jobs.db (default: {PREFIX}STORE)"
    )
    source.add_argument("--app", metavar="MODULE:JOBS", help="the application's own BackJob: myapp:jobs")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 3600:
        raise ArgumentTypeError("more than 0 and at most 3600 s are needed")
    return seconds
