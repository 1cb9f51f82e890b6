"""Connections of the current process to a database: from the application's engine, or from one made for a URL."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc
from sqlalchemy.pool import ConnectionPoolEntry, Pool, QueuePool

from backjob.errors import InvalidRequest, MissingExtra, StoreUnavailable, StoreUnusable
from backjob.stores.sql.errors import FOREIGN, Meaning, meaning, translated

_POOL_SIZE: Final = 8
_POOL_TIMEOUT: Final = 10.0  # s
_CONNECT_TIMEOUT: Final = 5  # s
_READ_TIMEOUT: Final = 30  # s
_LOCK_TIMEOUT: Final = 10  # s
_TRUSTED_IDLE: Final = 1.0  # s: a connection that was idle for longer is pinged before it is used

_DRIVERS: Final = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
"""The driver of a URL that names none."""
_EXTRAS: Final = {"psycopg": "postgresql", "pymysql": "mysql"}
"""The extra that installs a driver."""
_LIBPQ: Final = {
    "connect_timeout": f"{_CONNECT_TIMEOUT}",
    "client_encoding": "utf8",
    "application_name": "backjob",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "{timeout}000",
}
_MYSQL_CLIENT: Final = {
    "connect_timeout": f"{_CONNECT_TIMEOUT}",
    "read_timeout": "{timeout}",
    "write_timeout": "{timeout}",
}
_DEFAULTS: Final = {"psycopg": _LIBPQ, "psycopg2": _LIBPQ, "pymysql": _MYSQL_CLIENT, "mysqldb": _MYSQL_CLIENT}
"""A driver's options unless the URL sets them. The timeouts keep a call from waiting forever for a dead server."""
_FORCED: Final = {"pymysql": {"charset": "utf8mb4"}, "mysqldb": {"charset": "utf8mb4"}}
_MYSQL_BEGIN: Final = ("SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "START TRANSACTION")
_BEGIN: Final = {
    "postgresql": ("BEGIN ISOLATION LEVEL READ COMMITTED",),
    "mysql": _MYSQL_BEGIN,
    "mariadb": _MYSQL_BEGIN,
}
"""The statements that begin a transaction, whatever the session's isolation level."""
_MYSQL_SESSION: Final = (
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    f"SET SESSION innodb_lock_wait_timeout = {_LOCK_TIMEOUT}",
)
_IDLE_SINCE: Final = "backjob_idle_since"


class Connections:
    """Connections from the application's engine, with its pool and its settings unchanged.

    Raises `InvalidRequest` for an asynchronous engine, or one of another kind of database.
    """

    def __init__(self, engine: Engine, table: str) -> None:
        self.kind = engine.dialect.name
        _refuse_other_kinds(self.kind)
        if engine.dialect.is_async:
            raise InvalidRequest("database", "expected an engine with a synchronous driver")
        self.engine = engine
        self.name = database_name(engine.url)
        self.begin = _BEGIN[self.kind]
        self.foreign: tuple[type[Exception], ...] = (*FOREIGN, engine.dialect.loaded_dbapi.Error)
        """The exceptions of SQLAlchemy and the driver."""
        self._table = table
        # Single statements commit by themselves, and the store begins transactions with statements of its own. That takes
        # the fewest round trips, and does not depend on the engine's isolation level or event listeners.
        self._connect = engine.execution_options(isolation_level="AUTOCOMMIT").connect

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection in AUTOCOMMIT. Raises `StoreUnavailable`, `StoreUnusable` or an exception in ``foreign``."""
        connection = self.connect()
        try:
            yield connection
        except Exception as error:
            self._drop_lost(connection, error)
            raise
        except BaseException:  # a signal or a killed greenlet: the server may still be sending an answer
            with suppress(exc.SQLAlchemyError):
                connection.invalidate()
            raise
        finally:
            connection.close()

    def connect(self) -> Connection:
        """A connection that the caller must close."""
        try:
            return self._connect()
        except self.foreign:
            raise
        except (TypeError, ValueError, RuntimeError, FileNotFoundError) as error:  # an invalid option
            raise StoreUnusable(f"{self.name}: the driver can't connect: {error}") from error
        except OSError as error:
            raise StoreUnavailable(f"{self.name}: {error}") from error

    def _drop_lost(self, connection: Connection, error: Exception) -> None:
        """After an error of the driver itself: have the pool drop its connections if the server has gone."""
        dialect = self.engine.dialect
        if not isinstance(error, dialect.loaded_dbapi.Error) or connection.invalidated:
            return
        if dialect.is_disconnect(error, connection.connection.dbapi_connection, None):
            with suppress(exc.SQLAlchemyError):  # it recognizes the loss only in a statement of its own
                connection.exec_driver_sql("SELECT 1")
                connection.invalidate()

    def translated(self, error: BaseException) -> Exception:
        """The exception to raise instead of one in ``foreign``."""
        return translated(error, self.name, self._table)

    def close_idle(self) -> None:
        """Do nothing: the application closes its own connections."""

    def abandon(self) -> None:
        """In a forked child: leave the parent's connections alone."""
        _inherited.append(self.engine.pool)
        self.engine.dispose(close=False)


class SeparateConnections(Connections):
    """Connections that are made like those of the application's engine, in a pool of their own.

    The application's requests can't exhaust this pool.
    """

    def __init__(self, engine: Engine, table: str) -> None:
        super().__init__(Engine(engine.pool.recreate(), engine.dialect, engine.url, hide_parameters=True), table)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        with super().connection() as connection:
            yield connection
            if not connection.invalidated:
                connection.info[_IDLE_SINCE] = time.monotonic()

    def connect(self) -> Connection:
        try:
            connection = super().connect()
        except (exc.DBAPIError, self.engine.dialect.loaded_dbapi.Error):
            # An idle connection that has died fails already when its isolation level is set, before it can be pinged.
            self.engine.dispose()
            return super().connect()
        since = connection.info.get(_IDLE_SINCE)
        if since is None or time.monotonic() - since <= _TRUSTED_IDLE or _answers(connection):
            return connection
        connection.invalidate()
        connection.close()
        return super().connect()

    def close_idle(self) -> None:
        self.engine.dispose()


class LimitedConnections(Connections):
    """Connections from an engine that is made for a URL: at most ``limit`` at a time, by default eight.

    ``timeout`` (s) is how long to wait for a server that has died. While the server is down, one call at a time tries to
    connect, and the others fail at once with the last error.
    """

    def __init__(self, url: URL, table: str, *, limit: int | None = None, timeout: int = _READ_TIMEOUT) -> None:
        limit = _POOL_SIZE if limit is None else limit
        engine = _make_engine(url, limit, timeout)
        super().__init__(engine, table)
        self._connect = engine.connect
        self.begin = self.begin[-1:]
        # SQLAlchemy's pool does not wake the threads that wait in it when a connection attempt fails, so none may wait there.
        self._room = threading.BoundedSemaphore(limit)
        self._trying = threading.Lock()
        self._outage: str | None = None

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        if not self._room.acquire(timeout=_POOL_TIMEOUT):
            raise StoreUnavailable(f"{self.name}: no connection became free within {_POOL_TIMEOUT:g} s")
        try:
            with super().connection() as connection:
                yield connection
        finally:
            self._room.release()

    def connect(self) -> Connection:
        outage = self._outage
        if outage is None:
            return self._try_to_connect()
        if not self._trying.acquire(blocking=False):
            raise StoreUnavailable(outage)
        try:
            return self._try_to_connect()
        finally:
            self._trying.release()

    def _try_to_connect(self) -> Connection:
        try:
            connection = super().connect()
        except self.foreign as error:
            if meaning(error) is Meaning.UNAVAILABLE:
                self._outage = str(self.translated(error))
            raise
        self._outage = None
        return connection

    def close_idle(self) -> None:
        self.engine.dispose()


def database_name(url: URL) -> str:
    """The database as errors name it: without the password and the options, which may contain one."""
    return url._replace(password=None).set(query={}).render_as_string()


def _refuse_other_kinds(kind: str) -> None:
    if kind == "sqlite":
        raise InvalidRequest("database", "for SQLite use SQLiteStore, or a URL such as sqlite:///jobs.db")
    if kind not in _BEGIN:
        raise InvalidRequest("database", f"{kind!r} is none of {', '.join(_BEGIN)}")


def _make_engine(url: URL, limit: int, timeout: int) -> Engine:
    url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
    backend, _, driver = url.drivername.partition("+")
    _refuse_other_kinds(backend)
    defaults = {name: form.format(timeout=timeout) for name, form in _DEFAULTS.get(driver, {}).items()}
    missing = {name: value for name, value in defaults.items() if name not in url.query}
    url = url.update_query_dict(missing | _FORCED.get(driver, {}))
    try:
        engine = create_engine(
            url,
            isolation_level="AUTOCOMMIT",
            pool_reset_on_return=None,
            skip_autocommit_rollback=True,
            hide_parameters=True,
            poolclass=QueuePool,
            pool_size=limit,
            max_overflow=0,
            pool_timeout=_POOL_TIMEOUT,
            pool_use_lifo=True,
        )
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(driver)
        if extra is None:
            raise StoreUnusable(f"{database_name(url)}: the driver's module {error.name} is not installed") from error
        raise MissingExtra(f"a store at {backend}://…", extra) from error
    except ImportError as error:  # psycopg without libpq
        raise StoreUnusable(f"{database_name(url)}: the driver can't be loaded: {error}") from error
    except (exc.ArgumentError, TypeError, ValueError) as error:
        raise InvalidRequest("database", f"{database_name(url)}: {error}") from None
    _listen(engine)
    return engine


def _answers(connection: Connection) -> bool:
    dbapi_connection = connection.connection.dbapi_connection
    try:
        return dbapi_connection is not None and connection.dialect.do_ping(dbapi_connection)
    except Exception:
        return False


def _listen(engine: Engine) -> None:
    def set_up(connection: Any, _: ConnectionPoolEntry) -> None:
        with closing(connection.cursor()) as cursor:
            for statement in _MYSQL_SESSION:
                cursor.execute(statement)

    def note_time(_: Any, entry: ConnectionPoolEntry) -> None:
        entry.info[_IDLE_SINCE] = time.monotonic()

    def ping_idle(connection: Any, entry: ConnectionPoolEntry, _: object) -> None:
        since = entry.info.get(_IDLE_SINCE)
        if since is not None and time.monotonic() - since > _TRUSTED_IDLE:
            try:
                engine.dialect.do_ping(connection)
            except Exception as error:
                raise exc.InvalidatePoolError from error

    if engine.dialect.name != "postgresql":
        event.listen(engine, "connect", set_up)
    event.listen(engine, "checkin", note_time)
    event.listen(engine, "checkout", ping_idle)


_inherited: Final[list[Pool]] = []
"""Pools of a parent process. The garbage collector would close their connections, which the parent still uses."""
