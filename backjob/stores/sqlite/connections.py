"""A pool of connections to one SQLite file: one thread at a time uses each, and none is used after a fork."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final

from backjob.errors import BackJobError, InvalidRequest, StoreUnavailable, StoreUnusable
from backjob.process import PerProcess

_MOST_IDLE: Final = 8
_PRIVATE: Final = 0o600

_TRANSIENT: Final = (
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT),
    *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL),
)
"""Errors that may go away without a change of the configuration."""


class _Process:
    """The state of one process: idle connections, the turn of writers, and the numbers of readers and of forks in progress."""

    __slots__ = ("forks", "idle", "readers", "reading", "turn")

    def __init__(self) -> None:
        self.idle: list[sqlite3.Connection] = []
        self.turn = threading.RLock()
        self.reading = threading.Condition(threading.Lock())
        self.readers = 0
        self.forks = 0

    def take_turn(self, timeout: float) -> bool:
        """Take the turn of writers. Returns False if it takes longer than ``timeout`` seconds."""
        try:
            return self.turn.acquire(True, timeout)  # by name it takes twice as long
        except BaseException:  # of a signal handler, perhaps after the lock was taken: no later call could write
            with suppress(RuntimeError):  # it was not taken
                self.turn.release()
            raise

    def begin_reading(self) -> None:
        """Count a reader; waits while a fork is in progress."""
        with self.reading:
            while self.forks:
                self.reading.wait()
            self.readers += 1

    def end_reading(self) -> None:
        with self.reading:
            self.readers -= 1
            if self.forks:
                self.reading.notify_all()


_inherited: Final[list[_Process]] = []
"""The pools of parent processes, which stay unused and open."""


class Connections:
    """The connections of this process to the file at ``path``.

    ``prepare`` is called with each new connection. Writers of this process wait for a lock, which wakes them at once;
    those of different processes wait in SQLite, which sleeps and retries. Both wait at most ``timeout`` seconds.
    """

    def __init__(self, path: Path, timeout: float, prepare: Callable[[sqlite3.Connection], None]) -> None:
        self.path = path
        self._address = f"{path.as_uri()}?mode=rw"
        self.timeout = timeout
        self._prepare = prepare
        self.most_idle = _MOST_IDLE
        # SQLite forbids using or closing a connection in a forked child ("How To Corrupt An SQLite Database File", section
        # 2.6). A reference keeps the garbage collector from closing it.
        self.state = PerProcess(_Process, abandon=_inherited.append)
        _living.add(self)

    def read(self, sql: str, parameters: Any = ()) -> list[Any]:
        """The rows of a query."""
        with Reading(self) as connection:
            return connection.execute(sql, parameters).fetchall()

    def write(self, sql: str, parameters: Any = ()) -> list[Any]:
        """Execute one statement, which commits by itself; return its rows."""
        with Writing(self) as connection:
            return connection.execute(sql, parameters).fetchall()

    def create_file(self) -> None:
        """Create the file if it does not exist, readable by this user alone. Raises `StoreUnusable` if that fails.

        SQLite gives the files -wal and -shm beside it the same mode.
        """
        directory = self.path.parent
        if not directory.is_dir():
            raise StoreUnusable(f"{self.path}: there is no directory {directory}; create it, or choose another file")
        try:
            _create_private(os.path.realpath(self.path))  # a link may point to a file that does not exist yet
            sqlite3.connect(self._address, uri=True, timeout=self.timeout).close()
        except (OSError, sqlite3.Error) as error:
            raise StoreUnusable(f"{self.path}: can't be opened or created ({error}); check the permissions") from error

    def close_idle(self) -> None:
        """Close the connections that are not in use."""
        process = self.state.get()
        while process.idle:
            with suppress(IndexError):  # another thread took it
                process.idle.pop().close()

    def pause(self) -> Callable[[], None]:
        """Block new uses, wait for current ones to end, and close all connections. Call the result to unblock.

        Waits at most ``timeout`` seconds for the readers, and then for the writer or another thread that forks.
        """
        process = self.state.get()
        has_turn = False

        def resume() -> None:
            if has_turn:
                process.turn.release()
            with process.reading:
                process.forks -= 1
                process.reading.notify_all()

        with process.reading:
            process.forks += 1
        try:
            with process.reading:
                process.reading.wait_for(lambda: process.readers == 0, self.timeout)
            has_turn = process.take_turn(self.timeout)
            self.close_idle()
        except BaseException:  # of a signal handler
            resume()
            raise
        return resume

    def close(self) -> None:
        """Close idle connections and keep none from now on. A later call opens its own and closes it after use."""
        self.most_idle = 0
        self.close_idle()

    def open(self) -> sqlite3.Connection:
        """Open another connection."""
        connection = sqlite3.connect(
            self._address, uri=True, timeout=self.timeout, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def translated(self, error: sqlite3.Error) -> BackJobError:
        """Return backjob's error for one of SQLite's."""
        code = getattr(error, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_CONSTRAINT_UNIQUE:
            return InvalidRequest("id", "a job with this id exists already")
        kind = None if code is None else code & 0xFF  # the low byte is the primary code
        if kind == sqlite3.SQLITE_CANTOPEN and not self.path.exists():
            return StoreUnusable(f"{self.path}: there is no such file; construct the store with create_table=True")
        if kind in _TRANSIENT:
            return StoreUnavailable(f"{self.path}: {error}")
        if kind == sqlite3.SQLITE_NOTADB:
            return StoreUnusable(f"{self.path}: this file is not an SQLite database; choose another, or move it away")
        if kind == sqlite3.SQLITE_CORRUPT:
            return StoreUnusable(f"{self.path}: the database is corrupt ({error}); restore a backup, or move it away")
        if kind in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
            return StoreUnusable(
                f"{self.path}: {error}; the file and its directory, where SQLite keeps its log, must be writable"
            )
        return StoreUnusable(f"{self.path}: {error}")


class Reading:
    """The context of one use of a connection, by this thread only. Raises backjob's errors in place of SQLite's.

    Any error closes the connection. Each call of the store passes here: a generator would take longer.
    """

    __slots__ = ("_connection", "_connections", "_process")

    writes: ClassVar[bool] = False
    begins: ClassVar[bool] = False

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._connection: sqlite3.Connection | None = None

    def __enter__(self) -> sqlite3.Connection:
        connections = self._connections
        process = self._process = connections.state.get()
        if self.writes:
            if not process.take_turn(connections.timeout):
                raise StoreUnavailable(
                    f"{connections.path}: other threads were writing for more than {connections.timeout:g} s"
                )
        else:
            process.begin_reading()
        try:
            try:
                connection = process.idle.pop()
            except IndexError:
                connection = connections.open()
            self._connection = connection
            if self.begins:
                connection.execute("BEGIN IMMEDIATE")
        except BaseException as error:
            self._give_back(error)
            raise
        return connection

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is None and self.begins and self._connection is not None:
            try:
                self._connection.execute("COMMIT")
            except BaseException as failure:
                self._give_back(failure)
                raise
        self._give_back(error)

    def _give_back(self, error: BaseException | None) -> None:
        """Give back what `__enter__` has taken. Raises backjob's error if this one is SQLite's."""
        process, connection = self._process, self._connection
        try:
            if error is None and connection is not None and len(process.idle) < self._connections.most_idle:
                process.idle.append(connection)
            elif connection is not None:
                connection.close()
        finally:
            if self.writes:
                process.turn.release()
            else:
                process.end_reading()
        if isinstance(error, sqlite3.Error):
            raise self._connections.translated(error) from error


class Writing(Reading):
    """The context of one statement that writes and commits by itself, in the turn of writers.

    The turn comes before the connection: then writers follow each other on the same one, which need not read again what
    another one has written.
    """

    __slots__ = ()

    writes = True


class Transaction(Writing):
    """The context of a transaction: committed at its end, rolled back by any exception."""

    __slots__ = ()

    begins = True


def _create_private(path: str) -> None:
    """Create an empty file with the mode 0600 unless it exists."""
    try:
        # Never open a file that exists: closing any descriptor of it drops the locks that SQLite has on it in this process.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, _PRIVATE))
    except FileExistsError:
        return
    os.chmod(path, _PRIVATE)  # noqa: PTH101 - the umask may have taken rights of this user


_living: Final[weakref.WeakSet[Connections]] = weakref.WeakSet()

_paused: Final = threading.local()
"""The functions that resume the connections that the forking thread paused."""


def _before_fork() -> None:
    # SQLite's locks and mutexes are process-wide. A child that inherits one in use waits forever, or believes that it has
    # its parent's lock and loses its commits. This hook, which uwsgi does not run, keeps a child from inheriting one.
    _paused.resume = []
    for connections in list(_living):  # one by one: Python ignores the error of a signal handler, and forks
        _paused.resume.append(connections.pause())


def _after_fork() -> None:
    for resume in _paused.__dict__.pop("resume", ()):
        resume()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork)
