"""The program: parses a command line, runs the command, and turns errors into exit codes.

``backjob``, ``flask backjob`` and ``manage.py backjob`` are this one program. A framework passes the jobs of its
application; without them, the options ``--store`` and ``--app`` choose the jobs.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TextIO

from backjob.cli.completion import complete
from backjob.cli.exits import Exit, exit_code
from backjob.cli.parser import COMMANDS, parser_of
from backjob.errors import BackJobError
from backjob.jobs import BackJob

__all__ = ["COMMANDS", "main", "run"]


def main(arguments: Sequence[str] | None = None, *, jobs: BackJob | None = None, prog: str = "backjob") -> int:
    """Run a command line (by default ``sys.argv``), print any error, and return the exit code (`Exit`).

    ``jobs`` are those of a framework's application, and ``prog`` is how its users call this program. Wrong usage and
    ``--help`` raise `SystemExit`, as usual with argparse.
    """
    try:
        return run(arguments, jobs=jobs, prog=prog)
    except BackJobError as error:
        text = f"{prog}: {error}\n"
        _report(lambda: sys.stderr.write(text))
        return exit_code(error)
    except Exception:
        _report(traceback.print_exc)
        return Exit.INTERNAL


def run(arguments: Sequence[str] | None, *, jobs: BackJob | None, prog: str) -> int:
    """Like `main`, but raise `BackJobError` and unexpected errors for the caller to print."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # print an escape instead of failing
    try:
        parser = parser_of(prog, jobs)
        complete(parser)
        try:
            parsed = parser.parse_args(arguments)
            return int(parsed.run(parsed))
        finally:
            sys.stdout.flush()  # here and not at the interpreter's end, which would report a closed pipe
    except BrokenPipeError:
        _discard()
        return Exit.BROKEN_PIPE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


def _report(write: Callable[[], object]) -> None:
    """Write to standard error, even if nobody reads it any more."""
    try:
        write()
    except BrokenPipeError:
        _discard()


def _discard() -> None:
    """Redirect closed pipes to /dev/null, so that the interpreter's final flush does not fail."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            _redirect(stream)


def _redirect(stream: TextIO) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
