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
from typing import Any, Final

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
    """The state of one process: idle connections, the number in use, and the lock of writers."""

    __slots__ = ("idle", "in_use", "is_paused", "lock", "turn", "usage")

    def __init__(self) -> None:
        self.idle: list[sqlite3.Connection] = []
        self.turn = threading.Lock()
        self.lock = threading.Lock()
        self.usage = threading.Condition(self.lock)
        self.in_use = 0
        self.is_paused = False

    def enter(self) -> None:
        """Count a connection as used; waits while a fork is in progress."""
        with self.lock:
            while self.is_paused:
                self.usage.wait()
            self.in_use += 1

    def leave(self) -> None:
        with self.lock:
            self.in_use -= 1
            if self.is_paused:
                self.usage.notify_all()


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
        self._timeout = timeout
        self._prepare = prepare
        self._most_idle = _MOST_IDLE
        # SQLite forbids using or closing a connection in a forked child ("How To Corrupt An SQLite Database File", section
        # 2.6). A reference keeps the garbage collector from closing it.
        self._state = PerProcess(_Process, abandon=_inherited.append)
        _living.add(self)

    def read(self, sql: str, parameters: Any = ()) -> list[Any]:
        """The rows of a query."""
        with Use(self) as connection:
            return connection.execute(sql, parameters).fetchall()

    def write(self, sql: str, parameters: Any = ()) -> list[Any]:
        """Execute one statement, which commits by itself; return its rows."""
        with Use(self, writes=True) as connection:
            return connection.execute(sql, parameters).fetchall()

    def transaction(self) -> Transaction:
        """A transaction: committed at the end, rolled back by any exception."""
        return Transaction(self, writes=True)

    def take(self, *, to_write: bool) -> tuple[_Process, sqlite3.Connection]:
        """Take a connection for this thread only, and the turn of writers. Raises backjob's errors.

        The turn comes first: then writers follow each other on the same connection, which need not read again what
        another one has written.
        """
        process = self._state.get()
        process.enter()
        has_turn = False
        try:
            if to_write:
                self._begin_turn(process)
                has_turn = True
            try:
                connection = process.idle.pop()
            except IndexError:
                connection = self._open()
        except BaseException as error:
            if has_turn:
                process.turn.release()
            process.leave()
            if isinstance(error, sqlite3.Error):
                raise self._translated(error) from error
            raise
        return process, connection

    def give_back(
        self, process: _Process, connection: sqlite3.Connection, error: BaseException | None, *, wrote: bool
    ) -> None:
        """Give back what `take` returned. Any error closes the connection, and becomes backjob's if it is SQLite's."""
        try:
            if error is not None or len(process.idle) >= self._most_idle:
                connection.close()
            else:
                process.idle.append(connection)
        finally:
            if wrote:
                process.turn.release()
            process.leave()
        if isinstance(error, sqlite3.Error):
            raise self._translated(error) from error

    def create_file(self) -> None:
        """Create the file if it does not exist, readable by this user alone. Raises `StoreUnusable` if that fails.

        SQLite gives the files -wal and -shm beside it the same mode.
        """
        directory = self.path.parent
        if not directory.is_dir():
            raise StoreUnusable(f"{self.path}: there is no directory {directory}; create it, or choose another file")
        try:
            _create_private(os.path.realpath(self.path))  # a link may point to a file that does not exist yet
            sqlite3.connect(self._address, uri=True, timeout=self._timeout).close()
        except (OSError, sqlite3.Error) as error:
            raise StoreUnusable(f"{self.path}: can't be opened or created ({error}); check the permissions") from error

    def close_idle(self) -> None:
        """Close the connections that are not in use."""
        process = self._state.get()
        while process.idle:
            with suppress(IndexError):  # another thread took it
                process.idle.pop().close()

    def pause(self) -> Callable[[], None]:
        """Block new uses, wait for current ones to end, and close all connections. Call the result to unblock.

        Waits at most ``timeout`` seconds: a thread that forks inside its own transaction would wait for itself.
        """
        process = self._state.get()
        with process.usage:
            process.is_paused = True
            process.usage.wait_for(lambda: process.in_use == 0, self._timeout)
        self.close_idle()

        def resume() -> None:
            with process.usage:
                process.is_paused = False
                process.usage.notify_all()

        return resume

    def close(self) -> None:
        """Close idle connections and keep none from now on. A later call opens its own and closes it after use."""
        self._most_idle = 0
        self.close_idle()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._address, uri=True, timeout=self._timeout, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _begin_turn(self, process: _Process) -> None:
        if not process.turn.acquire(timeout=self._timeout):
            raise StoreUnavailable(f"{self.path}: other threads were writing for more than {self._timeout:g} s")

    def _translated(self, error: sqlite3.Error) -> BackJobError:
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


class Use:
    """The context of one use of a connection. A class, since each call of the store passes here: a generator takes longer."""

    __slots__ = ("_connections", "_taken", "_writes")

    def __init__(self, connections: Connections, *, writes: bool = False) -> None:
        self._connections = connections
        self._writes = writes

    def __enter__(self) -> sqlite3.Connection:
        self._taken = self._connections.take(to_write=self._writes)
        return self._taken[1]

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._connections.give_back(*self._taken, error, wrote=self._writes)


class Transaction(Use):
    """The context of a transaction: committed at its end, rolled back by any exception."""

    __slots__ = ()

    def __enter__(self) -> sqlite3.Connection:
        process, connection = self._taken = self._connections.take(to_write=True)
        try:
            connection.execute("BEGIN IMMEDIATE")
        except BaseException as error:
            self._connections.give_back(process, connection, error, wrote=True)
            raise
        return connection

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        process, connection = self._taken
        if error is None:
            try:
                connection.execute("COMMIT")
            except BaseException as failure:
                self._connections.give_back(process, connection, failure, wrote=True)
                raise
        self._connections.give_back(process, connection, error, wrote=True)


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
    _paused.resume = [connections.pause() for connections in list(_living)]


def _after_fork() -> None:
    for resume in _paused.__dict__.pop("resume", ()):
        resume()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork)
