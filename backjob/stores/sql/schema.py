"""The tables of `SQLStore`: their columns, how each database keeps them, and the SQL that makes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from attrs import frozen
from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    cast,
    literal_column,
    make_url,
    type_coerce,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.types import TypeDecorator, TypeEngine

from backjob.errors import InvalidRequest
from backjob.stores.columns import COLUMNS, JOB_COLUMNS, Kind
from backjob.stores.columns import Column as JobColumn

__all__ = ["Tables", "creation"]

_DIALECTS: Final = {
    "postgresql": "postgresql+psycopg://",
    "mysql": "mysql+pymysql://",
    "mariadb": "mariadb+pymysql://",
    "sqlite": "sqlite+pysqlite://",
}
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,47}")
_MYSQL: Final = ("mysql", "mariadb")


class _BinaryLabel(TypeDecorator[str]):
    """Text as VARBINARY: compared byte for byte, trailing spaces too, and no character set has a say."""

    impl = mysql.VARBINARY
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:  # noqa: ARG002
        return None if value is None else value.encode()

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else bytes(value).decode()


class _BinaryText(TypeDecorator[str]):
    """Text that a person can read in the table, and that travels as bytes, whatever the connection's character set."""

    impl = mysql.MEDIUMTEXT
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:  # noqa: ARG002
        return None if value is None else value.encode()

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else bytes(value).decode()

    def column_expression(self, column: Any) -> Any:
        return type_coerce(cast(column, mysql.BINARY()), self)


_TEXT: Final = Text().with_variant(_BinaryText(charset="utf8mb4", collation="utf8mb4_bin"), *_MYSQL)
_BYTES: Final = LargeBinary().with_variant(mysql.LONGBLOB(), *_MYSQL)
_PIECE: Final = LargeBinary().with_variant(mysql.BLOB(), *_MYSQL)
_SEQ: Final = BigInteger().with_variant(Integer(), "sqlite")  # only INTEGER is SQLite's own row number

_TYPES: Final[dict[Kind, TypeEngine[Any]]] = {
    **dict.fromkeys((Kind.STATUS, Kind.FLAG, Kind.SMALL), SmallInteger()),
    Kind.INTEGER: Integer(),
    **dict.fromkeys((Kind.BIG, Kind.MOMENT, Kind.SPAN), BigInteger()),
    **dict.fromkeys((Kind.TEXT, Kind.JSON, Kind.REQUEST), _TEXT),
    Kind.BYTES: _BYTES,
}


def _type(column: JobColumn) -> TypeEngine[Any]:
    if column.length is None:
        return _TYPES[column.kind]
    return String(column.length).with_variant(_BinaryLabel(column.length), *_MYSQL)


_OPTIONS: Final[dict[str, Any]] = {
    f"{dialect}_{option}": value
    for dialect in _MYSQL
    for option, value in (("engine", "InnoDB"), ("default_charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}


@frozen
class Tables:
    """The two tables of a store. ``jobs`` has the columns of `COLUMNS`, ``body`` and, at first, ``seq``."""

    metadata: MetaData
    jobs: Table
    output: Table

    @classmethod
    def named(cls, table_name: str, schema: str | None) -> Tables:
        """Raises `InvalidRequest` for a name that is not a plain identifier."""
        if not _IDENTIFIER.fullmatch(table_name) or table_name.lower().startswith("sqlite_"):
            raise InvalidRequest(
                "table_name",
                f"{table_name!r} is not an identifier: up to 48 ASCII letters, digits and underscores, no digit first, "
                'and not "sqlite_…", which SQLite keeps for itself',
            )
        if schema == "":
            raise InvalidRequest("schema", "a name is expected; without one the connection's own schema is used")
        metadata = MetaData(schema=schema)
        jobs = Table(
            table_name,
            metadata,
            Column("seq", _SEQ, Identity(), primary_key=True),
            *[Column(column.name, _type(column), nullable=column.nullable) for column in JOB_COLUMNS],
            Column("body", _BYTES),
            UniqueConstraint("id", name=f"{table_name}_id"),
            **_OPTIONS,
        )
        output = Table(
            f"{table_name}_output",
            metadata,
            Column("job", BigInteger(), primary_key=True, autoincrement=False),
            Column("start", BigInteger(), primary_key=True, autoincrement=False),
            Column("piece", _PIECE, nullable=False),
            **_OPTIONS,
        )
        _add_indices(jobs)
        return cls(metadata, jobs, output)

    @property
    def layout(self) -> dict[Table, frozenset[str]]:
        """Each table, and the names of its columns."""
        return {table: frozenset(table.columns.keys()) for table in (self.jobs, self.output)}

    @property
    def creation(self) -> Sequence[CreateTable | CreateIndex]:
        """What makes all of it, in order. The table of outputs comes last: where it is, nothing is missing."""
        indices = sorted(self.jobs.indexes, key=lambda index: str(index.name))
        return [CreateTable(self.jobs), *map(CreateIndex, indices), CreateTable(self.output)]

    @property
    def read(self) -> Sequence[Column[Any]]:
        """The columns that `row_job` takes, in its order."""
        return [self.jobs.c[name] for name in (*COLUMNS, "body")]


def _add_indices(jobs: Table) -> None:
    """Partial indices, where there are such, keep the searches for living jobs blind to any number of ended ones.

    A planner uses one only where the query repeats its condition, with the same literal numbers.
    """
    column = jobs.c
    living, ended = column.status < literal_column("2"), column.status >= literal_column("2")
    for name, columns, condition in (
        ("merging", [column.merge_key], column.merge_key.is_not(None)),
        ("living", [column.status, column.start_time], living),
        ("ended", [column.status, column.seq], ended),
        ("ageing", [column.status, column.end_time], ended),
        ("owned", [column.owner, column.seq], column.owner.is_not(None)),
        ("scoped", [column.scope, column.seq], column.scope != literal_column("''")),
    ):
        Index(
            f"{jobs.name}_{name}",
            *columns,
            unique=name == "merging",
            postgresql_where=condition,
            sqlite_where=condition,
        )


def creation(tables: Tables, dialect: str) -> str:
    """The SQL that makes the tables in this kind of database; it needs no server and no driver."""
    url = _DIALECTS.get(dialect)
    if url is None:
        raise InvalidRequest("dialect", f"{dialect!r} is none of {', '.join(_DIALECTS)}")
    compiler = make_url(url).get_dialect()()
    texts = [str(statement.compile(dialect=compiler)) for statement in tables.creation]
    return "\n".join([_tidy(text) for text in texts])


def _tidy(text: str) -> str:
    return "\n".join([line.replace("\t", "    ").rstrip() for line in text.strip().splitlines()]) + ";\n"
