"""A site of one or two processes which start jobs themselves, as a web application does, and measure what that takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from tests.benchmarks.commands import Side, Start, Usage
from tests.benchmarks.kinds import StoreKind
from tests.benchmarks.serving import ServerCommand, serving
from tests.scenarios.servers import gunicorn, python_server

__all__ = ["SERVED", "Processes", "Work", "open_processes"]

_TIMEOUT: Final = 120.0


@frozen
class Served:
    """How many processes serve the site, and the command that starts them."""

    processes: int
    command: ServerCommand


SERVED: Final = {
    "one process": Served(1, python_server("waitress")),
    "two processes": Served(2, gunicorn("--workers=2", "--worker-class=gthread", "--threads=4")),
}
"""By name: waitress, whose process starts the jobs and runs them; and gunicorn, of whose two workers one starts all jobs, and
either runs them, whichever accepts the request. Each process has 4 threads."""


@frozen
class Work:
    """What a job took: seconds, processor time in all processes (s), and voluntary context switches."""

    seconds: float
    processor: float
    switches: float


@frozen
class _Process:
    """One of the served processes."""

    _connection: Connection

    def call(self, command: str, *arguments: object) -> Any:
        """Have the process run one of its `Commands`; return the result."""
        self._connection.send((command, arguments))
        assert self._connection.poll(_TIMEOUT), f"{command} did not end"
        is_done, result = self._connection.recv()
        assert is_done, result
        return result


@frozen
class Processes:
    """The served processes; the first one starts the jobs. ``version`` is the store's."""

    kind: StoreKind
    version: str
    _all: tuple[_Process, ...]

    def many(self, side: Side, count: int) -> Work:
        """Run so many jobs, started at once; return what each took on average."""
        self.tidy()
        before = self._usage()
        seconds = self._all[0].call("many", side, count)
        for process in self._all[1:]:
            process.call("drain")
        after = self._usage()
        return Work(
            seconds / count,
            (after.processor - before.processor) / count,
            (after.switches - before.switches) / count,
        )

    def first_line(self, side: Side, rest: float) -> Start:
        """Start a job after so many seconds of rest."""
        start: Start = self._all[0].call("first_line", side, rest)
        return start

    def tidy(self) -> None:
        """Collect garbage in all processes."""
        for process in self._all:
            process.call("tidy")

    def _usage(self) -> Usage:
        found: list[Usage] = [process.call("usage") for process in self._all]
        return Usage(sum(each.processor for each in found), sum(each.switches for each in found))


@contextmanager
def open_processes(kind: StoreKind, name: str, directory: Path) -> Iterator[Processes]:
    """Serve the application with an empty store, by the processes of this name in `SERVED`."""
    how = SERVED[name]
    with ExitStack() as stack:
        listener = stack.enter_context(Listener(family="AF_UNIX"))
        served = stack.enter_context(serving(kind, how.command, directory, {"BENCHMARK_DRIVER": str(listener.address)}))
        found = tuple([_Process(stack.enter_context(listener.accept())) for _ in range(how.processes)])
        found[0].call("prepare")
        yield Processes(kind, served.raw.version, found)
