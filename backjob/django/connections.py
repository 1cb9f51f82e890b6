"""The database connection that the store uses: the caller's, or a separate one outside of the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final

from django.db import connections
from django.utils.connection import ConnectionDoesNotExist

_PREFIX: Final = "backjob separate "
_LEASES: Final = "backjob leases "
_SQLITE_TIMEOUT: Final = 0.2  # s; a report that can't be written now is written later, so the action need not wait

_own: ContextVar[str | None] = ContextVar("backjob_django_own_job", default=None)


@contextmanager
def job_context(job_id: str) -> Iterator[None]:
    """Mark the block as the action of this job."""
    # Not the core's own variable: `jobs.bind` sets that in other threads too, which have connections of their own.
    token = _own.set(job_id)
    try:
        yield
    finally:
        _own.reset(token)


def alias_for(using: str, job_id: str | None) -> str:
    """Return the alias for a job: ``using``, or that of a separate connection if the job's own action is in a transaction.

    Others must see the action's reports at once, and a rollback must not undo them. Other jobs, such as those that the
    action starts, are part of its transaction. The transaction of a `TestCase` does not count: a separate connection would
    not see what the test has written.
    """
    if job_id is None or _own.get() != job_id:
        return using
    connection = connections[using]
    if not connection.in_atomic_block or _belongs_to_a_test(connection):
        return using
    alias = _PREFIX + using
    try:
        connections[alias]
    except ConnectionDoesNotExist:
        connections[alias] = _copy(connection, alias)
    return alias


def alias_for_leases(using: str) -> str:
    """Return the alias for the renewal of leases: ``using``, or with Django's connection pool, one without a pool.

    Each thread has its own connection, so only the pool could make the renewal wait for the application's requests.
    """
    connection = connections[using]
    if not connection.settings_dict.get("OPTIONS", {}).get("pool") or _belongs_to_a_test(connection):
        return using
    alias = _LEASES + using
    try:
        connections[alias]
    except ConnectionDoesNotExist:
        unpooled = connection.copy(alias)
        unpooled.settings_dict["OPTIONS"] = {
            name: value for name, value in unpooled.settings_dict["OPTIONS"].items() if name != "pool"
        }
        connections[alias] = unpooled
    return alias


def close_separate(using: str) -> None:
    """Close this thread's separate connection, if it has one."""
    alias = _PREFIX + using
    with suppress(ConnectionDoesNotExist):
        connections[alias].close()
        del connections[alias]


def close_idle() -> None:
    """Close this thread's connections, except those in a transaction. Call it before not using them for long."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()
    for using in connections:
        with suppress(ConnectionDoesNotExist):
            connections[_LEASES + using].close()


def forget_inherited(using: str) -> None:
    """In a forked child: replace the parent's connections without closing them, because the parent still uses them."""
    for alias in (using, _PREFIX + using, _LEASES + using):
        with suppress(ConnectionDoesNotExist):
            connection = connections[alias]
            _inherited.append(connection.connection)
            connection.connection = None  # Django opens another one and resets the rest


_inherited: Final[list[Any]] = []
"""Connections of a parent process, kept alive: the garbage collector would close them."""


def _copy(connection: Any, alias: str) -> Any:
    separate = connection.copy(alias)
    if connection.vendor == "sqlite":
        options = {**separate.settings_dict.get("OPTIONS", {}), "timeout": _SQLITE_TIMEOUT}
        separate.settings_dict["OPTIONS"] = options
    return separate


def _belongs_to_a_test(connection: Any) -> bool:
    return bool(connection.atomic_blocks) and getattr(connection.atomic_blocks[0], "_from_testcase", False)
