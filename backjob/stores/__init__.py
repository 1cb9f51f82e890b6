"""The stores. `open_store` opens the one that a URL names, and imports only that store's driver."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Final, cast

from backjob.errors import InvalidRequest
from backjob.protocols import Clock, Store
from backjob.stores.urls import StoreURL

__all__ = ["has_tables", "load_store", "open_store"]

_SQL: Final = "backjob.stores.sql"
_MODULES: Final[Mapping[str, str]] = {
    "cache": "backjob.stores.cache",
    "memory": "backjob.stores.memory",
    "sqlite": "backjob.stores.sqlite",
    **dict.fromkeys(("redis", "rediss", "unix", "valkey", "valkeys"), "backjob.stores.redis"),
    **dict.fromkeys(("postgres", "postgresql", "mysql", "mariadb", "sqlite+pysqlite"), _SQL),
    **dict.fromkeys([f"postgresql+{driver}" for driver in ("psycopg", "psycopg2", "pg8000")], _SQL),
    **dict.fromkeys([f"{kind}+{driver}" for kind in ("mysql", "mariadb") for driver in ("pymysql", "mysqldb")], _SQL),
    "mariadb+mariadbconnector": _SQL,
}
"""URL scheme → the module whose ``from_url`` opens the store, or raises `MissingExtra` if its driver is not installed."""


def open_store(url: str, *, clock: Clock | None = None) -> Store:
    """The store at a URL.

    ``memory:`` keeps jobs in this process only. ``sqlite:///jobs.db`` is a file relative to the current directory,
    ``sqlite:////var/lib/app/jobs.db`` an absolute one; percent-encode reserved characters. Options follow a ``?`` and have
    the names of the constructor's arguments: ``sqlite:///jobs.db?durability=power&table_name=work``.

    ``clock`` is the store's time; by default it is the server's, or the computer's for a store without a server.

    Raises `InvalidRequest` for an unknown URL or option, `MissingExtra` if the driver is not installed, and `StoreUnusable`
    or `StoreUnavailable` as the store's constructor does.
    """
    parsed = StoreURL.parse(url)
    module = _MODULES.get(parsed.scheme)
    if module is None:
        known = ", ".join(sorted(_MODULES))
        raise InvalidRequest("store", f"unknown scheme {parsed.scheme!r}; known schemes: {known}")
    opener = cast("Callable[[StoreURL, Clock | None], Store]", import_module(module).from_url)
    return opener(parsed, clock)


def load_store(url: object) -> None:
    """Import the store at a URL and its driver, so that no request has to wait for that. `open_store` raises the errors."""
    with suppress(Exception):
        import_module(_MODULES[StoreURL.parse(str(url)).scheme])


def has_tables(url: str) -> bool:
    """Whether the store at a URL has the options ``table_name`` and ``create_table``. Raises `InvalidRequest` for other text."""
    return _MODULES.get(StoreURL.parse(url).scheme) in (_SQL, "backjob.stores.sqlite")
