"""The tables as a server has them: made where they are missing, refused where they are others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final
from zlib import crc32

from sqlalchemy import Connection, Table, func, inspect, literal_column, select, text
from sqlalchemy.schema import CreateIndex

from backjob.errors import StoreUnusable
from backjob.stores.sql.schema import Tables

__all__ = ["make_missing", "refuse_old_server", "refuse_other_layout"]

_OLDEST: Final = {"postgresql": (12,), "mysql": (8, 0, 1), "mariadb": (10, 6), "sqlite": (3, 35)}
"""PostgreSQL 12, MySQL 8.0.1 and MariaDB 10.6 have SKIP LOCKED, and SQLite 3.35 has RETURNING."""
_LOCK_WAIT: Final = 30  # s

Transaction = Callable[[Connection], AbstractContextManager[None]]


def refuse_old_server(connection: Connection, name: str) -> None:
    """Raise `StoreUnusable` for a server that is older than the statements."""
    dialect = connection.dialect
    kind = "mariadb" if getattr(dialect, "is_mariadb", False) else dialect.name
    version = dialect.server_version_info or ()
    if version < _OLDEST[kind]:
        found, needed = (".".join(map(str, numbers)) for numbers in (version, _OLDEST[kind]))
        raise StoreUnusable(f"{name}: {kind} {found} is too old: {needed} or newer is needed")
    if kind == "postgresql":
        encoding = connection.execute(select(func.current_setting("server_encoding"))).scalar_one()
        if encoding != "UTF8":
            raise StoreUnusable(
                f"{name}: the database's encoding is {encoding}, which can't keep all characters; make one with "
                "ENCODING 'UTF8'"
            )


def make_missing(connection: Connection, tables: Tables, transaction: Transaction) -> None:
    """Make tables and indices that are missing, unless a table is there and has another layout.

    Of several processes that come here at once, one makes them, and the others wait for it.
    """
    found = _layout(connection, tables)
    if len(found) == len(tables.layout) or _differing(found, tables):
        return
    alone = _alone_in_mysql(connection, tables) if _is_mysql(connection) else transaction(connection)
    with alone:
        if connection.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(_number(tables))))
        existing = {table for table in tables.layout if _exists(connection, table)}
        indices: set[str | None] = set()
        if tables.jobs in existing:
            known = inspect(connection).get_indexes(tables.jobs.name, schema=tables.jobs.schema)
            indices = {index["name"] for index in known}
        for statement in tables.creation:
            if isinstance(statement, CreateIndex):
                if statement.element.name not in indices:
                    connection.execute(statement)
            elif statement.element not in existing:
                connection.execute(statement)


def refuse_other_layout(connection: Connection, tables: Tables, name: str) -> None:
    """Raise `StoreUnusable` unless the tables are there, and have the columns that they should have."""
    found = _layout(connection, tables)
    differing = _differing(found, tables)
    if differing:
        raise StoreUnusable(
            f"{name}: the tables of {tables.jobs.fullname!r} have another layout than this version of backjob needs "
            f"(see {'; '.join(differing)}); name another table_name, or move them away"
        )
    for table in tables.layout:
        if table not in found:
            raise StoreUnusable(
                f"{name}: there is no table {table.fullname!r}; open the store once with create_table=True, or run the "
                f"SQL of `backjob schema --dialect {connection.dialect.name}`"
            )


def _differing(found: dict[Table, frozenset[str]], tables: Tables) -> list[str]:
    """Of the tables that exist, those whose columns are others, with the columns that make the difference."""
    return [
        f"{table.fullname}: {', '.join(sorted(columns ^ tables.layout[table]))}"
        for table, columns in found.items()
        if columns != tables.layout[table]
    ]


def _layout(connection: Connection, tables: Tables) -> dict[Table, frozenset[str]]:
    """The tables that are there, of those that should be, and the columns they have."""
    found: dict[Table, frozenset[str]] = {}
    for table in tables.layout:
        if _exists(connection, table):
            nothing: Any = select(literal_column("*")).select_from(table).where(text("1 = 0"))
            found[table] = frozenset(connection.execute(nothing).keys())
    return found


def _exists(connection: Connection, table: Table) -> bool:
    return inspect(connection).has_table(table.name, schema=table.schema)


def _is_mysql(connection: Connection) -> bool:
    return connection.dialect.name in ("mysql", "mariadb")


def _number(tables: Tables) -> int:
    return crc32(f"backjob {tables.jobs.fullname}".encode())


@contextmanager
def _alone_in_mysql(connection: Connection, tables: Tables) -> Iterator[None]:
    """MySQL has no transactions around CREATE: a lock by name keeps others away, as far as one server reaches."""
    name = f"backjob {_number(tables)}"
    connection.execute(select(func.get_lock(name, _LOCK_WAIT)))
    try:
        yield
    finally:
        connection.execute(select(func.release_lock(name)))
