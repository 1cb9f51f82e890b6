"""What a served process of the benchmarks measures in itself, as a process of a web application that starts jobs.

Each command does the same work with backjob or without it. `serve` takes commands from `tests.benchmarks.processes`.
"""

from __future__ import annotations

import gc
import resource
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Client
from typing import Any, Final, Literal

from attrs import frozen

from backjob import BackJob
from backjob.jobs import engine_of
from tests.benchmarks.notes import END, FIRST_LINE, Notes
from tests.benchmarks.raw import Raw, bare_request

__all__ = ["CLIENT_THREADS", "Commands", "Side", "Start", "Usage", "serve"]

Side = Literal["backjob", "by hand"]

CLIENT_THREADS: Final = 4
_TIMEOUT: Final = 60.0


@frozen
class Usage:
    """What a process has used so far: processor time (s), and how often a thread of it waited for something."""

    processor: float
    switches: int


@frozen
class Start:
    """A start, in seconds: until the call returned, processor time of the calling thread, until the first line ran."""

    call: float
    own: float
    first_line: float


@frozen
class Commands:
    """The commands. ``address`` is the server's; ``store`` is the URL of the jobs' store, and ``notes`` the path of the pipe."""

    _jobs: BackJob
    _raw: Raw
    _address: tuple[str, int]
    _store: str
    _notes: Notes

    def prepare(self) -> None:
        """Learn a row to insert by hand, and run a job, so that the address is proven and connections are open."""
        waiting = self._jobs.start("/work", {"id": 5}, as_current_user=False, delay=86400)
        self._raw.take_template(self._store, waiting)
        self._jobs.cancel(waiting)
        self.many("backjob", 1)
        self.many("by hand", 1)

    def usage(self) -> Usage:
        """What this process and its children have used."""
        found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return Usage(sum(each.ru_utime + each.ru_stime for each in found), sum(each.ru_nvcsw for each in found))

    def drain(self) -> None:
        """Wait until this process has nothing left to deliver."""
        until, pause = time.monotonic() + _TIMEOUT, threading.Event()
        while engine_of(self._jobs).monitor._deliveries._by_id:
            pause.wait(0.0005)
            assert time.monotonic() < until, "a delivery did not finish"

    def many(self, side: Side, count: int) -> float:
        """Run so many jobs that do nothing; return the seconds until all have ended and this process is done with them."""
        rows = [self._raw.row() for _ in range(count)]
        begin = time.monotonic()
        if side == "backjob":
            for _ in rows:
                self._start()
        else:
            with ThreadPoolExecutor(CLIENT_THREADS) as pool:
                for row in rows:
                    pool.submit(bare_request, self._address, f"/bare/updates?{self._raw.insert(row)}")
        for _ in rows:
            self._notes.wait(END)
        self.drain()
        return time.monotonic() - begin

    def first_line(self, side: Side, rest: float) -> Start:
        """Start a job after so many seconds of rest; by hand: insert a row, then make a request."""
        row = self._raw.row()
        time.sleep(rest)  # the rest is part of the measurement
        begin, own = time.monotonic(), time.thread_time()
        if side == "backjob":
            self._start()
        else:
            self._raw.insert(row)
        own, call = time.thread_time() - own, time.monotonic() - begin
        if side == "backjob":
            first_line = self._notes.wait(FIRST_LINE)
            self._notes.wait(END)
            self.drain()
        else:
            bare_request(self._address, "/bare")
            first_line = self._notes.wait(FIRST_LINE)
        return Start(call, own, first_line - begin)

    def tidy(self) -> None:
        """Collect garbage now, so that no measurement does it for another one."""
        gc.collect()

    def _start(self) -> None:
        self._jobs.start("/work", {"id": 5}, as_current_user=False)


def serve(path: str, commands: Commands) -> None:
    """Take commands from a unix socket, until it is closed."""
    with Client(path, "AF_UNIX") as connection:
        while True:
            try:
                name, arguments = connection.recv()
            except EOFError:
                return
            command: Callable[..., Any] = getattr(commands, name)
            try:
                connection.send((True, command(*arguments)))
            except Exception as error:
                connection.send((False, repr(error)))
