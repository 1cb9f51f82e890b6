"""One of Django's databases: which connection a call uses, what time it is there, and what its errors mean."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

from django.db import DataError, IntegrityError, InterfaceError, OperationalError, ProgrammingError, connections
from django.db.models import BigIntegerField, Func

from backjob.clock import SystemClock
from backjob.django.connections import alias_for, forget_inherited
from backjob.errors import InvalidRequest, StoreUnavailable, StoreUnusable
from backjob.model import Job
from backjob.process import PerProcess
from backjob.protocols import Clock
from backjob.stores.columns import COLUMNS
from backjob.stores.rows import SERVER_NOW, microseconds, moment, row_job

_P = ParamSpec("_P")
_R = TypeVar("_R")

_PAUSES: Final = (0.0, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
"""Seconds before each repetition after a deadlock."""
_SEALED: Final = COLUMNS.index("sealed")
_REFUSED_VALUES: Final = (1153, 1267, 1300, 1366, 3854, 3988)
"""Errors of MariaDB and MySQL for a packet that is too large, and for a character that a character set lacks."""


class _DatabaseNow(Func):
    """The database's own clock, in microseconds since 1970: one moment for a whole statement."""

    def __init__(self) -> None:
        super().__init__(output_field=BigIntegerField())

    def as_postgresql(self, _compiler: Any, _connection: Any, **_: Any) -> Any:
        return SERVER_NOW["postgresql"], []

    def as_mysql(self, _compiler: Any, _connection: Any, **_: Any) -> Any:
        return SERVER_NOW["mysql"], []


class _Deadlock(StoreUnavailable):
    """The database rolled back a transaction that the store began. A caller must repeat one that the caller began."""


def retry_deadlocks(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """Repeat a method after a deadlock, or a conflict of serializable transactions: the database rolls back one of them."""

    @wraps(method)
    def retried(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        for pause in _PAUSES:
            with suppress(_Deadlock):
                return method(*args, **kwargs)
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - two in conflict must not meet again
        return method(*args, **kwargs)

    return retried


class Database:
    """The database ``using``, an alias of ``DATABASES``. Its time is that of ``clock``, or its own if it has a clock."""

    def __init__(self, using: str, clock: Clock | None) -> None:
        if using not in connections.databases:
            raise InvalidRequest("using", f"there is no database {using!r} in DATABASES")
        self.using = using
        self._inherited = PerProcess(lambda: using, abandon=forget_inherited)
        self._inherited.get()
        has_clock = clock is None and connections[using].vendor in ("postgresql", "mysql")
        self.clock = None if has_clock else clock or SystemClock()
        """The clock, unless the time is the database's."""

    def own_alias(self) -> str:
        """The alias, in this process: a forked child has left its parent's connections."""
        return self._inherited.get()

    def now(self) -> Any:
        """The time, for a statement of the ORM."""
        return _DatabaseNow() if self.clock is None else microseconds(self.clock.now())

    def read(self, rows: Any, *, body: bool = False) -> list[Job]:
        """The jobs of a query, with the bodies of their requests only if they are asked for."""
        names = (*COLUMNS, "body") if body else COLUMNS
        if self.clock is not None:
            now = self.clock.now()
            return [row_job(plain(row, body=body), now) for row in rows.values_list(*names)]
        timed = rows.annotate(read_time=_DatabaseNow()).values_list(*names, "read_time")
        return [row_job(plain(row, body=body), moment(read_time)) for *row, read_time in timed]

    @contextmanager
    def connection(self, job_id: str | None = None, alias: str | None = None) -> Iterator[str]:
        """Yield the alias, by default the one to use for this job. Errors of the database become backjob's."""
        alias = alias or alias_for(self.own_alias(), job_id)
        try:
            yield alias
        except IntegrityError as error:
            raise InvalidRequest("id", "a job with this id exists already") from error
        except (DataError, UnicodeEncodeError, ValueError) as error:
            if isinstance(error, InvalidRequest):
                raise
            raise InvalidRequest("text", f"this can't be stored: {error}") from error
        except (OperationalError, InterfaceError) as error:
            if error.args[:1] and error.args[0] in _REFUSED_VALUES:
                raise InvalidRequest("text", f"this can't be stored: {error}") from error
            connection = connections[alias]
            if "no such table" in str(error) or "no such column" in str(error):
                raise self._unmigrated(error) from error
            if not connection.in_atomic_block:
                if _is_deadlock(error.__cause__):
                    raise _Deadlock(f"the database {self.using!r}: {error}") from error
                connection.close()  # the next call opens another one
            raise StoreUnavailable(f"the database {self.using!r}: {error}") from error
        except ProgrammingError as error:
            raise self._unmigrated(error) from error

    def _unmigrated(self, error: Exception) -> StoreUnusable:
        return StoreUnusable(f"the database {self.using!r}: {error}; did you run the migrations of backjob?")


def _is_deadlock(error: BaseException | None) -> bool:
    """Whether the driver reports a deadlock or a serialization failure."""
    if getattr(error, "sqlstate", None) in ("40001", "40P01"):  # PostgreSQL's
        return True
    return error is not None and error.args[:1] == (1213,)  # MariaDB's and MySQL's


def plain(row: Iterable[Any], *, body: bool) -> tuple[Any, ...]:
    """Return a row whose binary columns are bytes, whatever type the driver returns, with None for an unread body."""
    values = [*row] if body else [*row, None]
    for index in (_SEALED, -1):
        values[index] = None if values[index] is None else bytes(values[index])
    return tuple(values)
