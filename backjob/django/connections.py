"""Which connection the store writes by: the caller's own, or one beside it that the caller's transaction does not hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final

from django.db import connections
from django.utils.connection import ConnectionDoesNotExist

__all__ = ["acting", "aside", "close_aside", "close_idle", "forget_inherited"]

_PREFIX: Final = "backjob beside "
_SQLITE_PATIENCE: Final = 0.2  # s; what can't be written now is written later, and the action need not wait for it

_own: ContextVar[str | None] = ContextVar("backjob_django_own_job", default=None)


@contextmanager
def acting(job_id: str) -> Iterator[None]:
    """Within it the action of this job runs."""
    # The core's own variable won't do: it is None while something is written, so that nothing is output of the action.
    token = _own.set(job_id)
    try:
        yield
    finally:
        _own.reset(token)


def aside(using: str, job_id: str | None) -> str:
    """The alias for a job: ``using``, or for the action's own job, within a transaction, one that is not part of that.

    What the action reports must be seen at once, and stay if its transaction is undone. Another job, such as one that it
    starts, is part of the transaction. A test case's own transaction is not counted as one: nothing beside it sees what
    it wrote.
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


def close_aside(using: str) -> None:
    """Close this thread's connection beside, if it has one."""
    alias = _PREFIX + using
    with suppress(ConnectionDoesNotExist):
        connections[alias].close()
        del connections[alias]


def close_idle() -> None:
    """Close this thread's connections, save those within a transaction: it will not use them for long."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()


def forget_inherited(using: str) -> None:
    """In a forked child: never use, nor close, a connection of the parent's, which goes on with it."""
    for alias in (using, _PREFIX + using):
        with suppress(ConnectionDoesNotExist):
            connection = connections[alias]
            _inherited.append(connection.connection)
            connection.connection = None  # Django opens another, and sets the rest anew


_inherited: Final[list[Any]] = []
"""Connections of a parent process: kept from the collector, which would close them."""


def _copy(connection: Any, alias: str) -> Any:
    beside = connection.copy(alias)
    if connection.vendor == "sqlite":
        options = {**beside.settings_dict.get("OPTIONS", {}), "timeout": _SQLITE_PATIENCE}
        beside.settings_dict["OPTIONS"] = options
    return beside


def _belongs_to_a_test(connection: Any) -> bool:
    return bool(connection.atomic_blocks) and getattr(connection.atomic_blocks[0], "_from_testcase", False)
