"""Creates missing tables on a server, and refuses tables of another layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final
from zlib import crc32

from sqlalchemy import Connection, Table, func, inspect, literal_column, select, text
from sqlalchemy.schema import CreateIndex

from backjob.errors import StoreUnusable
from backjob.stores.sql.schema import Tables, sql_of

_OLDEST: Final = {"postgresql": (12,), "mysql": (8, 0, 1), "mariadb": (10, 6)}
"""MySQL and MariaDB have SKIP LOCKED since these versions."""
_LOCK_WAIT: Final = 30  # s

Transaction = Callable[[Connection], AbstractContextManager[None]]


def refuse_old_server(connection: Connection, name: str) -> None:
    """Raise `StoreUnusable` for a server that is too old for the statements, or whose encoding is not UTF-8."""
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
                f"{name}: the database's encoding is {encoding}, which can't store all characters; create a database "
                "with ENCODING 'UTF8'"
            )


def create_missing(connection: Connection, tables: Tables, transaction: Transaction) -> None:
    """Create missing tables and indices, unless an existing table has another layout.

    If several processes do this at once, one creates them, and the others wait for it.
    """
    found = _layout(connection, tables)
    if len(found) == len(tables.layout) or _differing(found, tables):
        return
    is_postgresql = connection.dialect.name == "postgresql"
    with transaction(connection) if is_postgresql else _named_lock(connection, tables):
        if is_postgresql:
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
    """Raise `StoreUnusable` unless the tables exist with exactly the expected columns."""
    found = _layout(connection, tables)
    differing = _differing(found, tables)
    for earlier, statements in tables.upgrades:
        if found.get(tables.jobs) == earlier:
            raise StoreUnusable(
                f"{name}: the table {tables.jobs.fullname!r} is that of an earlier version of backjob; run this SQL once:\n"
                f"{sql_of(statements, connection.dialect)}"
            )
    if differing:
        raise StoreUnusable(
            f"{name}: the tables of {tables.jobs.fullname!r} have another layout than this version of backjob needs "
            f"(see {'; '.join(differing)}); choose another table_name, or rename or drop them"
        )
    for table in tables.layout:
        if table not in found:
            raise StoreUnusable(
                f"{name}: there is no table {table.fullname!r}; open the store once with create_table=True, or run the "
                f"SQL of `backjob schema --dialect {connection.dialect.name}`"
            )


def _differing(found: dict[Table, frozenset[str]], tables: Tables) -> list[str]:
    """The existing tables of another layout, each with the columns that are missing or unexpected."""
    return [
        f"{table.fullname}: {', '.join(sorted(columns ^ tables.layout[table]))}"
        for table, columns in found.items()
        if columns != tables.layout[table]
    ]


def _layout(connection: Connection, tables: Tables) -> dict[Table, frozenset[str]]:
    """The columns of each table that exists."""
    found: dict[Table, frozenset[str]] = {}
    for table in tables.layout:
        if _exists(connection, table):
            no_rows: Any = select(literal_column("*")).select_from(table).where(text("1 = 0"))
            found[table] = frozenset(connection.execute(no_rows).keys())
    return found


def _exists(connection: Connection, table: Table) -> bool:
    return inspect(connection).has_table(table.name, schema=table.schema)


def _number(tables: Tables) -> int:
    return crc32(f"backjob {tables.jobs.fullname}".encode())


@contextmanager
def _named_lock(connection: Connection, tables: Tables) -> Iterator[None]:
    """A lock of MySQL or MariaDB, which have no transactions around CREATE. Other nodes of a cluster do not see it."""
    name = f"backjob {_number(tables)}"
    connection.execute(select(func.get_lock(name, _LOCK_WAIT)))
    try:
        yield
    finally:
        connection.execute(select(func.release_lock(name)))
