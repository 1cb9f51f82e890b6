"""One database: single statements, which commit by themselves, and transactions. Both are retried after a conflict."""

from __future__ import annotations

import os
import random
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, Engine

from backjob.process import PerProcess
from backjob.stores.sql.connections import Connections, LimitedConnections, SeparateConnections
from backjob.stores.sql.errors import Meaning, driver_error, meaning
from backjob.stores.sql.prepared import Block

T = TypeVar("T")

_PAUSES: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
"""Seconds before each retry of a step."""
_SEPARATE_TIMEOUT: Final = 5  # s: leases are renewed long before they end, so that a dead connection can be replaced


class Database:
    """The database of a URL or of an application's engine.

    Errors name ``table``. ``prepare`` is called with the first connection, before anything else.
    """

    def __init__(self, place: URL | Engine, table: str, prepare: Callable[[Connection], None]) -> None:
        self._prepare = prepare
        self._is_prepared = False
        self._is_closed = False

        def connections() -> Connections:
            return LimitedConnections(place, table) if isinstance(place, URL) else Connections(place, table)

        def separate() -> Connections:
            if isinstance(place, URL):
                return LimitedConnections(place, table, limit=1, timeout=_SEPARATE_TIMEOUT)
            return SeparateConnections(place, table)

        self._connections = PerProcess(connections, Connections.abandon)
        self._separate = PerProcess(separate, Connections.abandon)
        self.kind = self._connections.get().kind
        self.name = self._connections.get().name
        if isinstance(place, Engine):
            _on_engines.add(self)

    def do(self, step: Callable[[Connection], T], *, separate: bool = False) -> T:
        """Call a step whose statements each commit by themselves, and return its result.

        After a conflict the step is called again. With ``separate`` it gets a connection that other calls don't use, so that
        it never waits for one. Raises the `StoreError` that an exception of the driver means.
        """
        connections = (self._separate if separate else self._connections).get()
        pauses = iter(_PAUSES)
        while True:
            try:
                with connections.connection() as connection:
                    if not self._is_prepared:
                        self._prepare(connection)
                        self._is_prepared = True
                    return step(connection)
            except connections.foreign as error:
                pause = next(pauses, None)
                if pause is None or meaning(error) is not Meaning.CONFLICT:
                    raise connections.translated(error) from driver_error(error)
            finally:
                if self._is_closed:
                    connections.close_idle()
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - two in conflict must not meet again

    def transact(self, step: Callable[[Connection], T], *, separate: bool = False) -> T:
        """Call a step whose statements are one transaction, and return its result. See `do`."""

        def whole(connection: Connection) -> T:
            with self.transaction(connection):
                return step(connection)

        return self.do(whole, separate=separate)

    @contextmanager
    def transaction(self, connection: Connection) -> Iterator[None]:
        """A transaction on this connection: committed at the end, rolled back by any exception."""
        with self._rolled_back(connection):
            for statement in self._connections.get().begin:
                _execute(connection, statement)
            yield
            _execute(connection, "COMMIT")

    def run_block(self, connection: Connection, block: Block, values: Mapping[str, Any]) -> Sequence[Any]:
        """Run a block, a transaction of its own, and return its rows."""
        with self._rolled_back(connection):
            return block.rows(connection, values, self._connections.get().begin)

    @contextmanager
    def _rolled_back(self, connection: Connection) -> Iterator[None]:
        """After an exception, end the transaction that may be open."""
        try:
            yield
        except Exception:
            if not connection.invalidated:
                try:
                    _execute(connection, "ROLLBACK")
                except Exception:  # for any reason: the connection must not be used again
                    connection.invalidate()
            raise

    def close(self) -> None:
        """Close idle connections, and from now on each connection after its use, except those of an application's engine."""
        self._is_closed = True
        self.close_idle()

    def close_idle(self) -> None:
        """Close idle connections, except those of an application's engine."""
        self._connections.get().close_idle()
        self._separate.get().close_idle()

    def leave_parent(self) -> None:
        """In a forked child: abandon the parent's connections now, not at the first call."""
        self._connections.get()
        self._separate.get()


def _execute(connection: Connection, statement: str) -> None:
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute(statement)


_on_engines: Final[weakref.WeakSet[Database]] = weakref.WeakSet()
"""The databases of applications' engines."""


def _leave_parents() -> None:
    for database in list(_on_engines):
        database.leave_parent()


if hasattr(os, "register_at_fork"):
    # At the first call it may be too late: the application may have opened connections in the child, which would be lost.
    os.register_at_fork(after_in_child=_leave_parents)
