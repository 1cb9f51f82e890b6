"""Connections to one database: an engine of our own or the application's, single statements that commit by
themselves, and transactions that others may make us repeat.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from attrs import frozen
from sqlalchemy import URL, Connection, Dialect, Engine, Executable, create_engine, event, exc
from sqlalchemy.pool import ConnectionPoolEntry, Pool, QueuePool

from backjob.errors import InvalidRequest, MissingExtra, StoreUnavailable, StoreUnusable
from backjob.stores.sql.errors import FOREIGN, Meaning, driver_error, meaning, translated
from backjob.stores.sql.gate import Gate

__all__ = ["Database", "Direct"]

T = TypeVar("T")

_POOL_SIZE: Final = 8
_POOL_TIMEOUT: Final = 10.0  # s
_CONNECT_TIMEOUT: Final = 5  # s
_ANSWER_TIMEOUT: Final = 30  # s
_LOCK_TIMEOUT: Final = 10  # s
_TRUSTED_IDLE: Final = 1.0  # s: a connection that was idle for longer is tried before it is used
_PAUSES: Final = (0.32, 0.16, 0.08, 0.04, 0.02, 0.01)  # s, from the end: before a step is tried again

_DRIVERS: Final = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
    "sqlite": "sqlite+pysqlite",
}
"""What a URL without a driver means."""
_EXTRAS: Final = {"psycopg": "postgresql", "pymysql": "mysql"}
"""A driver's module → the extra that brings it."""
_LIBPQ: Final = {
    "connect_timeout": f"{_CONNECT_TIMEOUT}",
    "client_encoding": "utf8",
    "application_name": "backjob",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": f"{_ANSWER_TIMEOUT * 1000}",
}
_CLIENT: Final = {
    "connect_timeout": f"{_CONNECT_TIMEOUT}",
    "read_timeout": f"{_ANSWER_TIMEOUT}",
    "write_timeout": f"{_ANSWER_TIMEOUT}",
}
_CONNECTING: Final = {"psycopg": _LIBPQ, "psycopg2": _LIBPQ, "pymysql": _CLIENT, "mysqldb": _CLIENT}
"""What a driver is told unless the URL says otherwise: nothing waits without end for a server that is gone."""
_FORCED: Final = {"pymysql": {"charset": "utf8mb4"}, "mysqldb": {"charset": "utf8mb4"}}
_BEGINNINGS: Final = {
    "postgresql": ("BEGIN ISOLATION LEVEL READ COMMITTED",),
    "mysql": ("SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "START TRANSACTION"),
    "mariadb": ("SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "START TRANSACTION"),
    "sqlite": ("BEGIN IMMEDIATE",),
}
"""How a transaction begins, whatever the session's own isolation is."""
_MYSQL_SESSION: Final = (
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    f"SET SESSION innodb_lock_wait_timeout = {_LOCK_TIMEOUT}",
)
_SESSIONS: Final = {
    "mysql": _MYSQL_SESSION,
    "mariadb": _MYSQL_SESSION,
    "sqlite": ("PRAGMA synchronous = NORMAL",),
}
"""What a connection of our own is told at its beginning."""
_IDLE_SINCE: Final = "backjob_idle_since"


class Database:
    """The database that a URL or an engine names, and the connections of this process to it.

    ``table`` is named in errors. ``prepare`` gets the first connection before anything else is done with it.
    """

    def __init__(self, place: URL | Engine, table: str, prepare: Callable[[Connection], None]) -> None:
        self._table = table
        self._prepare = prepare
        self._is_own = isinstance(place, URL)
        self._root = _engine(place) if isinstance(place, URL) else place
        _refuse_unknown(self._root)
        self.kind = kind = self._root.dialect.name
        self.name = _name(self._root.url)
        self._foreign = (*FOREIGN, self._root.dialect.loaded_dbapi.Error)
        # Statements commit by themselves, and what must not is begun by a statement of our own: that costs the fewest
        # round trips, and is the same whatever isolation or events an application gives its engine.
        self._engine = self._root if self._is_own else self._root.execution_options(isolation_level="AUTOCOMMIT")
        self._beginning = _BEGINNINGS[kind][-1:] if self._is_own else _BEGINNINGS[kind]
        self._may_be_begun = kind == "sqlite" and not self._is_own
        self._gate = Gate(self.name, _POOL_SIZE, _POOL_TIMEOUT) if self._is_own else None
        self._is_prepared = False
        self._is_closed = False
        self._pid = os.getpid()
        _living.add(self)

    def do(self, step: Callable[[Connection], T]) -> T:
        """What a step returns, whose statements each commit by themselves. It may be called again, from its beginning."""
        if self._pid != os.getpid():
            self.forget_parent()
        pauses = list(_PAUSES)
        while True:
            try:
                with self._connection() as connection:
                    if not self._is_prepared:
                        self._prepare(connection)
                        self._is_prepared = True
                    return step(connection)
            except self._foreign as error:
                if not pauses or meaning(error) is not Meaning.CONFLICT:
                    raise translated(error, self.name, self._table) from driver_error(error)
            time.sleep(pauses.pop() * random.uniform(0.5, 1.5))  # noqa: S311 - two that met should not meet again

    def transact(self, step: Callable[[Connection], T]) -> T:
        """What a step returns, whose statements take effect together. It may be called again, from its beginning."""

        def whole(connection: Connection) -> T:
            with self.transaction(connection):
                return step(connection)

        return self.do(whole)

    @contextmanager
    def transaction(self, connection: Connection) -> Iterator[None]:
        """Several statements on this connection as one step: committed at the end, rolled back by any exception."""
        try:
            for statement in self._beginning:
                _tell(connection, statement)
            yield
            _tell(connection, "COMMIT")
        except Exception:
            if not connection.invalidated:
                try:
                    _tell(connection, "ROLLBACK")
                except Exception:  # whatever it is: the connection is not used again
                    connection.invalidate()
            raise

    def close(self) -> None:
        """Close what is idle, and keep nothing open from now on. An application's engine stays as it is."""
        self._is_closed = True
        self.close_idle()

    def close_idle(self) -> None:
        """Close what is idle."""
        if self._is_own:
            self._root.dispose()

    def forget_parent(self) -> None:
        """In a forked child: never touch the parent's connections."""
        self._pid = os.getpid()
        _inherited.append(self._root.pool)
        self._root.dispose(close=False)
        if self._gate is not None:
            self._gate.open_anew()

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        with nullcontext() if self._gate is None else self._gate.passing(), self._connected() as connection:
            yield connection

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        connection = self._connect()
        try:
            if self._may_be_begun:
                _end_what_an_event_began(connection)
            yield connection
        except BaseException as error:
            if not isinstance(error, Exception):  # a signal, a killed greenlet: who knows what the server still sends
                with suppress(exc.SQLAlchemyError):
                    connection.invalidate()
            raise
        finally:
            connection.close()
            if self._is_closed:
                self.close_idle()

    def _connect(self) -> Connection:
        try:
            connection = self._engine.connect()
        except self._foreign as error:
            if self._gate is not None and meaning(error) is Meaning.UNAVAILABLE:
                self._gate.shut(str(translated(error, self.name, self._table)))
            raise
        except (TypeError, ValueError, RuntimeError, FileNotFoundError) as error:  # an option that makes no sense
            raise StoreUnusable(f"{self.name}: the driver can't connect: {error}") from error
        except OSError as error:
            raise StoreUnavailable(f"{self.name}: {error}") from error
        if self._gate is not None:
            self._gate.open()
        return connection


class Direct:
    """A writing statement that is compiled once, and then handed to the driver itself: with several in a transaction,
    SQLAlchemy's care for each would cost as much time again.
    """

    def __init__(self, statement: Executable) -> None:
        self._statement: Any = statement
        self._compiled: _Compiled | None = None

    def run(self, connection: Connection, values: Mapping[str, Any]) -> int:
        """How many rows were written. Raises the driver's own errors; for use within a `Database.transaction`."""
        if self._compiled is None:
            self._compiled = _Compiled.of(self._statement, connection.dialect)
        with closing(connection.connection.cursor()) as cursor:
            cursor.execute(self._compiled.text, self._compiled.bind(values))
            return cursor.rowcount


@frozen
class _Compiled:
    text: str
    values: tuple[tuple[str, Callable[[Any], Any] | None], ...]
    """Each value's name, in order, and what makes it the driver's."""
    is_positional: bool

    @classmethod
    def of(cls, statement: Any, dialect: Dialect) -> _Compiled:
        compiled = statement.compile(dialect=dialect)
        names = compiled.positiontup if compiled.positional else compiled.binds
        kinds = {name: compiled.binds[name].type.dialect_impl(dialect) for name in names}
        values = tuple([(name, kinds[name].bind_processor(dialect)) for name in names])
        return cls(compiled.string, values, compiled.positional)

    def bind(self, values: Mapping[str, Any]) -> Any:
        bound = [(name, process(values[name]) if process else values[name]) for name, process in self.values]
        return tuple([value for _, value in bound]) if self.is_positional else dict(bound)


def _tell(connection: Connection, statement: str) -> None:
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute(statement)


def _engine(url: URL) -> Engine:
    """An engine of our own, whose connections are in AUTOCOMMIT once and for all."""
    url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
    backend, _, driver = url.drivername.partition("+")
    if backend not in _BEGINNINGS:
        raise InvalidRequest("database", f"{backend!r} is none of {', '.join(_BEGINNINGS)}")
    missing = {name: value for name, value in _CONNECTING.get(driver, {}).items() if name not in url.query}
    url = url.update_query_dict(missing | _FORCED.get(driver, {}))
    try:
        engine = create_engine(
            url,
            isolation_level="AUTOCOMMIT",
            pool_reset_on_return=None,
            skip_autocommit_rollback=True,
            hide_parameters=True,
            poolclass=QueuePool,
            pool_size=_POOL_SIZE,
            max_overflow=0,
            pool_timeout=_POOL_TIMEOUT,
            pool_use_lifo=True,
        )
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(driver)
        if extra is None:
            raise StoreUnusable(f"{_name(url)}: the driver's module {error.name} is not installed") from error
        raise MissingExtra(f"a store at {backend}://…", extra) from error
    except ImportError as error:  # psycopg without libpq
        raise StoreUnusable(f"{_name(url)}: the driver can't be loaded: {error}") from error
    except (exc.ArgumentError, TypeError, ValueError) as error:
        raise InvalidRequest("database", f"{_name(url)}: {error}") from None
    _listen(engine)
    return engine


def _listen(engine: Engine) -> None:
    session = _SESSIONS.get(engine.dialect.name, ())

    def set_up(connection: Any, _: ConnectionPoolEntry) -> None:
        with closing(connection.cursor()) as cursor:
            if engine.dialect.name == "sqlite":
                _enter_wal(cursor)
            for statement in session:
                cursor.execute(statement)

    def note_idleness(_: Any, entry: ConnectionPoolEntry) -> None:
        entry.info[_IDLE_SINCE] = time.monotonic()

    def try_before_use(connection: Any, entry: ConnectionPoolEntry, _: object) -> None:
        since = entry.info.get(_IDLE_SINCE)
        if since is not None and time.monotonic() - since > _TRUSTED_IDLE:
            try:
                engine.dialect.do_ping(connection)
            except Exception as error:
                raise exc.InvalidatePoolError from error

    if session:
        event.listen(engine, "connect", set_up)
    event.listen(engine, "checkin", note_idleness)
    event.listen(engine, "checkout", try_before_use)


def _enter_wal(cursor: Any) -> None:
    """Entering WAL mode needs the file alone for a moment, and SQLite does not always wait for that itself."""
    deadline = time.monotonic() + _CONNECT_TIMEOUT
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_PAUSES[-1])
        else:
            cursor.fetchall()
            return


def _refuse_unknown(engine: Engine) -> None:
    kind = engine.dialect.name
    if kind not in _BEGINNINGS:
        raise InvalidRequest("database", f"{kind!r} is none of {', '.join(_BEGINNINGS)}")
    if engine.dialect.is_async:
        raise InvalidRequest("database", "an engine with a driver that is not asynchronous is needed")
    if kind != "sqlite":
        return
    database = engine.url.database or ""
    if database in ("", ":memory:") or "mode=memory" in str(engine.url):
        raise InvalidRequest("database", 'a file is expected; a store in memory is MemoryStore(), or "memory:"')
    directory = Path(database).absolute().parent
    if not database.startswith("file:") and not directory.is_dir():
        raise StoreUnusable(f"{database}: there is no directory {directory}; create it, or name another file")


def _name(url: URL) -> str:
    """What to call a database in an error: neither its password nor any of its options, which may hold one."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return url._replace(password=None).set(query={}).render_as_string()


def _end_what_an_event_began(connection: Connection) -> None:
    """Many applications have SQLAlchemy's "begin" event begin a transaction in SQLite, in AUTOCOMMIT too."""
    connection.begin()
    driver: Any = connection.connection.driver_connection
    if driver.in_transaction:
        driver.rollback()


_inherited: Final[list[Pool]] = []
"""Connections of a parent process: kept from the collector, which would close them."""

_living: Final[weakref.WeakSet[Database]] = weakref.WeakSet()


def _before_fork() -> None:
    # A child that inherits an open file of SQLite believes that it holds its parent's locks. (`SQLiteStore` goes further.)
    for database in list(_living):
        if database.kind == "sqlite":
            database.close_idle()


def _after_fork() -> None:
    for database in list(_living):
        database.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
