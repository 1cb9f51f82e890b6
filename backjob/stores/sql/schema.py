"""The tables of `SQLStore`: the type of each column in each database, and the SQL that creates them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from attrs import frozen
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateIndex, CreateTable, DDLElement, DropIndex
from sqlalchemy.types import TypeDecorator, TypeEngine

from backjob.errors import InvalidRequest
from backjob.stores.columns import ADDED, JOB_COLUMNS, LAYOUTS, Column, Kind

_DIALECTS: Final = {
    "postgresql": "postgresql+psycopg://",
    "mysql": "mysql+pymysql://",
    "mariadb": "mariadb+pymysql://",
}
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,47}")
_MYSQL: Final = ("mysql", "mariadb")


class _BinaryLabel(TypeDecorator[str]):
    """Text as VARBINARY: compared byte for byte with trailing spaces, independent of character sets."""

    impl: TypeEngine[Any] | type[TypeEngine[Any]] = mysql.VARBINARY
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> bytes | None:  # noqa: ARG002
        return None if value is None else value.encode()

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else bytes(value).decode()


class _BinaryText(_BinaryLabel):
    """Text that is readable in the table but sent as bytes, independent of the connection's character set."""

    impl = mysql.MEDIUMTEXT
    cache_ok = True

    def column_expression(self, column: Any) -> Any:
        return sa.type_coerce(sa.cast(column, mysql.BINARY()), self)


_TEXT: Final = sa.Text().with_variant(_BinaryText(charset="utf8mb4", collation="utf8mb4_bin"), *_MYSQL)
_BYTES: Final = sa.LargeBinary().with_variant(mysql.LONGBLOB(), *_MYSQL)
_CHUNK: Final = sa.LargeBinary().with_variant(mysql.BLOB(), *_MYSQL)

_TYPES: Final[dict[Kind, TypeEngine[Any]]] = {
    **dict.fromkeys((Kind.STATUS, Kind.FLAG, Kind.SMALL), sa.SmallInteger()),
    Kind.INTEGER: sa.Integer(),
    **dict.fromkeys((Kind.BIG, Kind.MOMENT, Kind.SPAN), sa.BigInteger()),
    **dict.fromkeys((Kind.TEXT, Kind.JSON, Kind.REQUEST), _TEXT),
    Kind.BYTES: _BYTES,
}


def _type(column: Column) -> TypeEngine[Any]:
    if column.length is None:
        return _TYPES[column.kind]
    return sa.String(column.length).with_variant(_BinaryLabel(column.length), *_MYSQL)


def _column(column: Column) -> sa.Column[Any]:
    default = sa.text(f"'{column.default}'") if column in ADDED and not column.nullable else None
    return sa.Column(column.name, _type(column), nullable=column.nullable, server_default=default)


_OPTIONS: Final[dict[str, Any]] = {
    f"{dialect}_{option}": value
    for dialect in _MYSQL
    for option, value in (("engine", "InnoDB"), ("default_charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}


@frozen
class Tables:
    """The two tables of a store. ``jobs`` has ``seq``, the columns of `COLUMNS`, and ``body``."""

    metadata: sa.MetaData
    jobs: sa.Table
    output: sa.Table

    @classmethod
    def named(cls, table_name: str, schema: str | None) -> Tables:
        """The tables of this name. Raises `InvalidRequest` unless it is a plain identifier."""
        if not _IDENTIFIER.fullmatch(table_name):
            raise InvalidRequest(
                "table_name",
                f"{table_name!r} is not an identifier: up to 48 ASCII letters, digits and underscores, no digit first",
            )
        if schema == "":
            raise InvalidRequest("schema", "the name is empty; leave it out for the connection's own schema")
        metadata = sa.MetaData(schema=schema)
        jobs = sa.Table(
            table_name,
            metadata,
            sa.Column("seq", sa.BigInteger(), sa.Identity(), primary_key=True),
            *[_column(column) for column in JOB_COLUMNS],
            sa.Column("body", _BYTES),
            sa.UniqueConstraint("id", name=f"{table_name}_id"),
            **_OPTIONS,
        )
        output = sa.Table(
            f"{table_name}_output",
            metadata,
            sa.Column("job", sa.BigInteger(), primary_key=True, autoincrement=False),
            sa.Column("start", sa.BigInteger(), primary_key=True, autoincrement=False),
            sa.Column("piece", _CHUNK, nullable=False),
            **_OPTIONS,
        )
        _add_indices(jobs)
        return cls(metadata, jobs, output)

    @property
    def upgrades(self) -> Sequence[tuple[frozenset[str], Sequence[DDLElement]]]:
        """For each earlier layout the columns of ``jobs``, and the statements that bring such tables up to date."""
        return [(self._columns_of(number), self._upgrade(number)) for number in range(len(LAYOUTS))]

    def _columns_of(self, number: int) -> frozenset[str]:
        later = {column.name for layout in LAYOUTS[number:] for column in layout}
        return self.layout[self.jobs] - later

    def _upgrade(self, number: int) -> Sequence[DDLElement]:
        added = [self.jobs.c[column.name] for layout in LAYOUTS[number:] for column in layout]
        names = {name for changed in _CHANGED[number:] for name in changed}
        indices = [index for index in self._indices if str(index.name).removeprefix(f"{self.jobs.name}_") in names]
        replaced = [index for index in indices if not str(index.name).endswith(_NEW)]
        # MariaDB commits each statement, so the first one that changes the columns' names adds them all: if it fails, or one
        # before it, the tables are still those of the earlier version.
        nullable = [_AllowNull(self.jobs.c.deliver_by)] if number < _ALLOWS_NULL else []
        return [*nullable, _AddColumns(added), *map(DropIndex, replaced), *map(CreateIndex, indices)]

    @property
    def layout(self) -> dict[sa.Table, frozenset[str]]:
        """The column names of each table."""
        return {table: frozenset(table.columns.keys()) for table in (self.jobs, self.output)}

    @property
    def creation(self) -> Sequence[CreateTable | CreateIndex]:
        """The statements in their order. The table of output comes last: if it exists, nothing is missing."""
        return [CreateTable(self.jobs), *map(CreateIndex, self._indices), CreateTable(self.output)]

    @property
    def _indices(self) -> list[sa.Index]:
        return sorted(self.jobs.indexes, key=lambda index: str(index.name))


_CHANGED: Final = (("living", "ended", "ageing", "chained"), ("limits", "slots"), ("living",))
"""The indices that each later layout has added or changed, as in `LAYOUTS`."""
_ALLOWS_NULL: Final = 2
"""The number of the first layout in which ``deliver_by`` may be NULL."""
_NEW: Final = ("_chained", "_limits", "_slots")
"""The ends of the names of those that no table had before."""


_UNIQUE: Final = ("merging", "slots")


class _AddColumns(DDLElement):
    def __init__(self, columns: Sequence[sa.Column[Any]]) -> None:
        self.columns = columns


@compiles(_AddColumns)
def _compile_add_columns(element: _AddColumns, compiler: Any, **_: Any) -> str:
    table = compiler.preparer.format_table(element.columns[0].table)
    added = [f"\n\tADD COLUMN {compiler.get_column_specification(column)}" for column in element.columns]
    return f"ALTER TABLE {table}{','.join(added)}"


class _AllowNull(DDLElement):
    def __init__(self, column: sa.Column[Any]) -> None:
        self.column = column


@compiles(_AllowNull, "postgresql")
def _compile_drop_not_null(element: _AllowNull, compiler: Any, **_: Any) -> str:
    table, column = (
        compiler.preparer.format_table(element.column.table),
        compiler.preparer.format_column(element.column),
    )
    return f"ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL"


@compiles(_AllowNull, *_MYSQL)
def _compile_modify(element: _AllowNull, compiler: Any, **_: Any) -> str:
    table = compiler.preparer.format_table(element.column.table)
    return f"ALTER TABLE {table} MODIFY COLUMN {compiler.get_column_specification(element.column)}"


def _add_indices(jobs: sa.Table) -> None:
    """Add the indices, which are partial in PostgreSQL, so that ended jobs do not slow down searches for living ones.

    The planner uses a partial index only if the query repeats its condition with the same literal numbers. The columns that
    the renewal of leases changes are in no index, so that PostgreSQL need not touch one for it.
    """
    column = jobs.c
    living, ended = column.status < sa.literal_column("2"), column.status >= sa.literal_column("2")
    for name, columns, condition in (
        ("merging", [column.merge_key], column.merge_key.is_not(None)),
        ("living", [column.status, column.label, column.start_time, column.seq], living),
        ("limits", [column.status, column.label, column.deliver_by, column.expires], living),
        ("slots", [column.slot], column.slot.is_not(None)),
        ("ended", [column.status, column.label, column.seq], ended),
        ("ageing", [column.status, column.label, column.end_time], ended),
        ("owned", [column.owner, column.seq], column.owner.is_not(None)),
        ("scoped", [column.scope, column.seq], column.scope != sa.literal_column("''")),
        ("chained", [column.root], column.root.is_not(None)),
    ):
        sa.Index(f"{jobs.name}_{name}", *columns, unique=name in _UNIQUE, postgresql_where=condition)


def creation(tables: Tables, dialect: str) -> str:
    """The SQL that creates the tables in this kind of database. Needs neither a server nor a driver."""
    url = _DIALECTS.get(dialect)
    if url is None:
        raise InvalidRequest("dialect", f"{dialect!r} is none of {', '.join(_DIALECTS)}")
    return sql_of(tables.creation, sa.make_url(url).get_dialect()())


def sql_of(statements: Sequence[DDLElement], dialect: sa.Dialect) -> str:
    """The statements as text, each with a semicolon."""
    return "\n".join([_tidy(str(statement.compile(dialect=dialect))) for statement in statements])


def _tidy(text: str) -> str:
    return "\n".join([line.replace("\t", "    ").rstrip() for line in text.strip().splitlines()]) + ";\n"
