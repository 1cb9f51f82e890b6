"""Where jobs are kept: `open_store` finds the store for a URL. A store's driver is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Final, cast

from backjob.errors import InvalidRequest
from backjob.protocols import Clock, Store
from backjob.stores.urls import StoreURL

__all__ = ["has_tables", "open_store"]

_SQL: Final = "backjob.stores.sql"
_MODULES: Final[Mapping[str, str]] = {
    "cache": "backjob.stores.cache",
    "memory": "backjob.stores.memory",
    "redis": "backjob.stores.redis",
    "rediss": "backjob.stores.redis",
    "sqlite": "backjob.stores.sqlite",
    "postgres": _SQL,
    "postgresql": _SQL,
    "postgresql+psycopg": _SQL,
    "postgresql+psycopg2": _SQL,
    "postgresql+pg8000": _SQL,
    "mysql": _SQL,
    "mysql+pymysql": _SQL,
    "mysql+mysqldb": _SQL,
    "mariadb": _SQL,
    "mariadb+pymysql": _SQL,
    "mariadb+mysqldb": _SQL,
    "mariadb+mariadbconnector": _SQL,
    "sqlite+pysqlite": _SQL,
    "unix": "backjob.stores.redis",
    "valkey": "backjob.stores.redis",
    "valkeys": "backjob.stores.redis",
}
"""URL scheme → the module whose ``from_url`` opens it; the module raises `MissingExtra` where its driver is absent."""


def open_store(url: str, *, clock: Clock | None = None) -> Store:
    """The store a URL names.

    ``memory:`` keeps jobs in this process alone. ``sqlite:///jobs.db`` is a file relative to the current directory,
    ``sqlite:////var/lib/app/jobs.db`` an absolute one; reserved characters in it are percent-encoded. Options follow a
    ``?`` and carry the names of the constructor's arguments: ``sqlite:///jobs.db?durability=power&table_name=work``.

    ``clock`` is the store's time where it has none of its own; by default the computer's.

    Raises `InvalidRequest` for a URL or an option that is not known, `MissingExtra` where the driver is not installed,
    and `StoreUnusable` or `StoreUnavailable` as the store's constructor does.
    """
    parsed = StoreURL.parse(url)
    module = _MODULES.get(parsed.scheme)
    if module is None:
        known = ", ".join(sorted(_MODULES))
        raise InvalidRequest("store", f"no store is known by the scheme {parsed.scheme!r}; known are: {known}")
    opener = cast("Callable[[StoreURL, Clock | None], Store]", import_module(module).from_url)
    return opener(parsed, clock)


def has_tables(url: str) -> bool:
    """Whether the store a URL names keeps jobs in a table, so that it has the options ``table_name`` and ``create_table``.

    Raises `InvalidRequest` for what is no URL.
    """
    return _MODULES.get(StoreURL.parse(url).scheme) in (_SQL, "backjob.stores.sqlite")
