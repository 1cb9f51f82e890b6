"""Connections to one SQLite file: few, each used by one thread at a time, none across a fork, every error translated."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from backjob.errors import BackJobError, InvalidRequest, StoreUnavailable, StoreUnusable
from backjob.process import PerProcess

__all__ = ["Connections"]

_MOST_IDLE: Final = 8

# Codes of SQLite that will pass by themselves, or by the hand of whoever runs the machine; all others stay.
_PASSING: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)


class _Process:
    """What belongs to one process: the connections that are idle, how many are in use, and whose turn it is to write."""

    __slots__ = ("idle", "in_use", "is_paused", "turn", "usage")

    def __init__(self) -> None:
        self.idle: list[sqlite3.Connection] = []
        self.turn = threading.Lock()
        self.usage = threading.Condition(threading.Lock())
        self.in_use = 0
        self.is_paused = False

    def enter(self) -> None:
        """Before a connection is used: wait while a fork is under way."""
        with self.usage:
            while self.is_paused:
                self.usage.wait()
            self.in_use += 1

    def leave(self) -> None:
        """After a connection was used, and is idle again or closed."""
        with self.usage:
            self.in_use -= 1
            if self.is_paused:
                self.usage.notify_all()


_inherited: Final[list[_Process]] = []
"""Connections of a parent process, never touched again."""


class Connections:
    """The connections of this process to the file at ``path``.

    ``prepare`` gets each new connection. Writers of this process take turns by a lock, which is fair and wakes at once,
    where SQLite's own waiting is a sleep; between processes SQLite's waiting remains. ``timeout``: seconds for either.
    """

    def __init__(self, path: Path, timeout: float, prepare: Callable[[sqlite3.Connection], None]) -> None:
        self.path = path
        self._address = f"{path.as_uri()}?mode=rw"
        self._timeout = timeout
        self._prepare = prepare
        self._most_idle = _MOST_IDLE
        # SQLite forbids to use or close a connection in a forked child ("How To Corrupt An SQLite Database File", section
        # 2.6). A reference keeps the garbage collector from closing it.
        self._state = PerProcess(_Process, abandon=_inherited.append)
        _living.add(self)

    def read(self, sql: str, parameters: Any = ()) -> list[Any]:
        """The rows of a query."""
        with self._connection() as (_, connection):
            return connection.execute(sql, parameters).fetchall()

    def write(self, sql: str, parameters: Any = ()) -> list[Any]:
        """Carry out one statement, which commits by itself; the rows that it returns."""
        with self._connection() as (process, connection):
            self._begin_turn(process)
            try:
                return connection.execute(sql, parameters).fetchall()
            finally:
                process.turn.release()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Several statements as one step: committed at the end, rolled back by any exception."""
        with self._connection() as (process, connection):
            self._begin_turn(process)
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.close()
                process.turn.release()

    @contextmanager
    def _connection(self) -> Iterator[tuple[_Process, sqlite3.Connection]]:
        """A connection for this thread alone. After an exception, which is translated, it is not used again."""
        process = self._state.get()
        process.enter()
        try:
            connection = self._take(process)
            try:
                yield process, connection
            except BaseException as error:
                connection.close()
                self._translate(error)
                raise
            self._give(process, connection)
        finally:
            process.leave()

    def create_file(self) -> None:
        """Make the file where there is none. Raises `StoreUnusable` if it can't be."""
        directory = self.path.parent
        if not directory.is_dir():
            raise StoreUnusable(f"{self.path}: there is no directory {directory}; create it, or name another file")
        try:
            sqlite3.connect(f"{self.path.as_uri()}?mode=rwc", uri=True, timeout=self._timeout).close()
        except sqlite3.Error as error:
            raise StoreUnusable(
                f"{self.path}: can't be opened or created ({error}); see who may write there"
            ) from error

    def close_idle(self) -> None:
        """Close the connections that nobody uses at the moment."""
        process = self._state.get()
        while process.idle:
            with suppress(IndexError):  # another thread was faster
                process.idle.pop().close()

    def pause(self) -> Callable[[], None]:
        """Wait until nobody uses a connection, let nobody begin, and close them all. Returns what lets others go on.

        Waits ``timeout`` seconds at most: a thread that forks within a transaction of its own would wait for itself.
        """
        process = self._state.get()
        with process.usage:
            process.is_paused = True
            process.usage.wait_for(lambda: process.in_use == 0, self._timeout)
        self.close_idle()

        def go_on() -> None:
            with process.usage:
                process.is_paused = False
                process.usage.notify_all()

        return go_on

    def close(self) -> None:
        """Close what is idle, and keep none from now on: a late call opens a connection of its own."""
        self._most_idle = 0
        self.close_idle()

    def _take(self, process: _Process) -> sqlite3.Connection:
        try:
            return process.idle.pop()
        except IndexError:
            return self._open()

    def _give(self, process: _Process, connection: sqlite3.Connection) -> None:
        if len(process.idle) < self._most_idle:
            process.idle.append(connection)
        else:
            connection.close()

    def _open(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                self._address, uri=True, timeout=self._timeout, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            self._translate(error)
            raise
        try:
            self._prepare(connection)
        except BaseException as error:
            connection.close()
            self._translate(error)
            raise
        return connection

    def _begin_turn(self, process: _Process) -> None:
        if not process.turn.acquire(timeout=self._timeout):
            raise StoreUnavailable(f"{self.path}: other threads were writing for more than {self._timeout:g} s")

    def _translate(self, error: BaseException) -> None:
        if isinstance(error, sqlite3.Error):
            raise self._translated(error) from error

    def _translated(self, error: sqlite3.Error) -> BackJobError:
        code = getattr(error, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_CONSTRAINT_UNIQUE:
            return InvalidRequest("id", "a job with this id exists already")
        kind = None if code is None else code & 0xFF  # the upper bytes only refine it
        if kind == sqlite3.SQLITE_CANTOPEN and not self.path.exists():
            return StoreUnusable(f"{self.path}: there is no such file; construct the store with create_table=True")
        if kind in _PASSING:
            return StoreUnavailable(f"{self.path}: {error}")
        if kind == sqlite3.SQLITE_NOTADB:
            return StoreUnusable(f"{self.path}: this file is not an SQLite database; name another, or move it away")
        if kind == sqlite3.SQLITE_CORRUPT:
            return StoreUnusable(
                f"{self.path}: the database is damaged ({error}); restore it from a copy, or move it away"
            )
        if kind in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
            return StoreUnusable(
                f"{self.path}: {error}; the file and its directory, where SQLite puts its log, must be writable"
            )
        return StoreUnusable(f"{self.path}: {error}")


_living: Final[weakref.WeakSet[Connections]] = weakref.WeakSet()


_paused: Final = threading.local()
"""What lets go on the connections that the forking thread has paused."""


def _before_fork() -> None:
    # SQLite keeps locks and mutexes of the whole process. A child that inherits them in use waits for ever for a mutex,
    # or takes a lock that only its parent has for its own, and loses what it commits. Where this runs (uwsgi forks
    # without it) the child inherits nothing.
    _paused.go_on = [connections.pause() for connections in list(_living)]


def _after_fork() -> None:
    for go_on in _paused.__dict__.pop("go_on", ()):
        go_on()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork)
