"""The parser of the command line: its commands with their options, and the functions that run them."""

from __future__ import annotations

import sys
from argparse import PARSER, SUPPRESS, Action, ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NoReturn

from typing_extensions import override

from backjob import __version__
from backjob.cli import commands
from backjob.cli.completion import SHELLS, complete_with, job_ids
from backjob.cli.exits import MEANINGS, Exit
from backjob.cli.findings import EXIT_CODES as DOCTOR_EXIT_CODES
from backjob.cli.opening import PREFIX
from backjob.jobs import BackJob
from backjob.model import Status
from backjob.model.durations import LONGEST
from backjob.status.words import WORDS

COMMANDS: Final = (
    "list",
    "show",
    "watch",
    "wait",
    "cancel",
    "run-again",
    "delete",
    "cleanup",
    "monitor",
    "worker",
    "deliver",
    "doctor",
    "schema",
)
"""The commands that every front end has; ``demo`` and ``completion`` are only in ``backjob`` itself."""

_EXIT_CODES: Final = "exit codes:\n" + "".join(f"  {code:<6} {meaning}\n" for code, meaning in MEANINGS.items())
_ENVIRONMENT: Final = f"""
settings come from the environment, under their usual names: {PREFIX}STORE, {PREFIX}BASE_URL, {PREFIX}KEY,
{PREFIX}RETENTION_DAYS and so on; with --app they come from the application instead
"""
_WORKER: Final = """\
The worker needs the application's jobs (--app) and the application with its middleware (--wsgi or --asgi); Flask and
Django have both. SIGTERM drains: no job is taken any more, slices hand over, and running jobs have DRAIN_TIME. A second
signal ends the worker at once.
"""
_STATES: Final = {
    **{status.name.lower(): status for status in Status},
    **{word.lower(): status for status, word in WORDS.items()},
    "waiting": Status.STARTED,
}
_STATE_NAMES: Final = ("waiting", *(word.lower() for status, word in WORDS.items() if status is not Status.STARTED))


class _Formatter(RawDescriptionHelpFormatter):
    """Keeps line breaks, and shows the help of each command beside its name."""

    @override
    def add_argument(self, action: Action) -> None:
        super().add_argument(action)
        if action.nargs == PARSER:
            self._action_max_length += self._indent_increment  # argparse forgets that it indents the commands


class _Parser(ArgumentParser):
    """Exits with 64 after wrong usage. argparse would exit with 2, which means a cancelled job here."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(Exit.USAGE, f"{self.prog}: {message}\n")


def parser_of(prog: str, jobs: BackJob | None) -> ArgumentParser:
    """Return the parser for the jobs of a framework's application, or with the options that choose the jobs."""
    parser = _Parser(
        prog=prog,
        description="Background jobs of a web application, run by HTTP requests to itself.",
        epilog=_EXIT_CODES if jobs is not None else _EXIT_CODES + _ENVIRONMENT,
        formatter_class=_Formatter,
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
            formatter_class=_Formatter,
        )
        added.set_defaults(run=function)
        if source and jobs is None:
            _add_source(added)
        return added

    if jobs is None:
        text = "serve a small site, start a job there, and watch it here"
        _add_demo(add("demo", commands.run_demo, text, source=False))
    _add_filters(add("list", commands.list_jobs, "list jobs, newest first"))
    _add_job(add("show", commands.show_job, "show a job and its output"))
    ends = "Ctrl-C stops watching; the job continues.\n\n" + _codes("0", "1", "2", "3", "130")
    _add_id(add("watch", commands.watch_job, "print a job's output and progress until it ends", ends))
    waits = _codes("0", "1", "2", "3", "124", "130")
    _add_wait(add("wait", commands.wait_for_job, "wait until a job has ended, and print nothing", waits))
    _add_job(add("cancel", commands.cancel_job, "cancel a job; a running action stops at its next update"))
    needs = f"needs {PREFIX}BASE_URL, and without an application also {PREFIX}KEY and a store"
    kept = f"The job must have been started with keep_request=True. The command {needs}."
    _add_job(
        add("run-again", commands.run_again, "start the request of an ended job again, and print the new id", kept)
    )
    _add_delete(add("delete", commands.delete_jobs, "cancel a job, and remove it with its output and file"))
    ages = f"ages: {PREFIX}COMPLETED_RETENTION_DAYS (30) and {PREFIX}RETENTION_DAYS (60)"
    _add_json(
        add("cleanup", commands.clean_up, "remove jobs past their retention age, as monitors do every hour", ages)
    )
    add("monitor", commands.run_monitor_here, "deliver jobs from this process, for a site without traffic", needs)
    text = "run jobs in this process, which calls the application itself, without a server"
    _add_worker(add("worker", commands.run_worker_here, text, _WORKER))
    delivers = f"Without an option for the application, the command {needs}.\n\n" + _codes(
        "0", "1", "2", "3", "4", "5", "130"
    )
    text = "deliver a job, and wait until it has ended: for an engine that runs commands"
    _add_deliver(add("deliver", commands.deliver_here, text, delivers))
    _add_doctor(
        add(
            "doctor",
            commands.examine_application,
            "check that worker requests reach the application",
            DOCTOR_EXIT_CODES,
        )
    )
    _add_schema(add("schema", commands.print_schema, "print the SQL that creates a store's tables", source=False))
    if jobs is None:
        text = "print the code for completion in a shell"
        usage = 'in bash and zsh: eval "$(backjob completion bash)"; in fish: backjob completion fish | source'
        shell = add("completion", commands.print_completion, text, usage, source=False)
        shell.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    return parser


def _codes(*codes: str) -> str:
    """Return the help on these exit codes."""
    return "exit codes:\n" + "\n".join(f"  {code:<6} {MEANINGS[code]}" for code in codes)


def _add_source(parser: ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--store", metavar="URL", help=f"the jobs' store, such as sqlite:///jobs.db (default: {PREFIX}STORE)"
    )
    source.add_argument("--app", metavar="MODULE:JOBS", help="the application's BackJob, such as myapp:jobs")


def _add_json(parser: ArgumentParser, text: str = "print a JSON object") -> None:
    parser.add_argument("--json", action="store_true", help=text)


def _add_id(parser: ArgumentParser) -> None:
    complete_with(parser.add_argument("job_id", metavar="ID"), job_ids)


def _add_job(parser: ArgumentParser) -> None:
    _add_id(parser)
    _add_json(parser)


def _add_delete(parser: ArgumentParser) -> None:
    chosen = parser.add_mutually_exclusive_group(required=True)
    complete_with(chosen.add_argument("job_id", metavar="ID", nargs="?"), job_ids)
    chosen.add_argument("--owner", help="delete all jobs of this owner")
    _add_json(parser)


def _add_wait(parser: ArgumentParser) -> None:
    _add_id(parser)
    parser.add_argument("--timeout", type=_seconds, metavar="S", help="give up after so many seconds (default: never)")


def _add_demo(parser: ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="run one job, print it, and exit with its code")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="the port; 0 picks a free one (default %(default)s)")
    parser.add_argument("--fail", action="store_true", help=SUPPRESS)


def _add_filters(parser: ArgumentParser) -> None:
    status = parser.add_argument("--status", type=_status, metavar="STATE", help=", ".join(_STATE_NAMES))
    complete_with(status, lambda **_: list(_STATE_NAMES))
    parser.add_argument("--queue", help="only jobs of this queue")
    parser.add_argument("--scope", help="only jobs with this scope")
    parser.add_argument("--owner", help="only jobs of this owner")
    parser.add_argument(
        "--search", dest="q", metavar="TEXT", default="", help="only jobs with this in their title or path"
    )
    parser.add_argument("--limit", type=int, default=50, help="at most this many jobs, 1 to 1000 (default %(default)s)")
    complete_with(parser.add_argument("--before", metavar="ID", help="only jobs older than this one"), job_ids)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("-q", "--quiet", action="store_true", help="print only the ids, one per line")
    shown.add_argument("--json", action="store_true", help="print one JSON object per line")


def _add_application(parser: ArgumentParser, in_process: str | None = None) -> None:
    app = parser.add_mutually_exclusive_group()
    app.add_argument("--wsgi", metavar="MODULE:APP", help="the application that a WSGI server serves")
    app.add_argument("--asgi", metavar="MODULE:APP", help="the application that an ASGI server serves")
    if in_process is not None:
        app.add_argument("--in-process", action="store_true", help=in_process)


def _add_deliver(parser: ArgumentParser) -> None:
    _add_job(parser)
    _add_application(parser, "run the job in this process; Flask and Django find the application themselves")


def _add_worker(parser: ArgumentParser) -> None:
    _add_application(parser)
    parser.add_argument(
        "--threads", type=_count, default=4, metavar="N", help="how many jobs to run at once (default %(default)s)"
    )
    parser.add_argument(
        "--queue",
        action="append",
        default=[],
        metavar="NAME",
        help="run only the jobs of this queue; may be repeated (default: all queues that no engine carries)",
    )


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
        return _STATES[text.lower().replace("-", "_")]
    except KeyError:
        known = ", ".join(_STATE_NAMES)
        raise ArgumentTypeError(f"{text!r} is not one of {known}") from None


def _count(text: str) -> int:
    with suppress(ValueError):
        count = int(text)
        if 1 <= count <= 1000:
            return count
    raise ArgumentTypeError(f"must be 1 to 1000, not {text!r}")


def _seconds(text: str) -> float:
    with suppress(ValueError):
        seconds = float(text)
        if 0 < seconds <= LONGEST:
            return seconds
    raise ArgumentTypeError(f"must be more than 0 s and at most {LONGEST} s, not {text!r}")
