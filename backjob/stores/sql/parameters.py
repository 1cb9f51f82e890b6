"""Parameters and literals of the statements of `SQLStore`.

Parameters are named ``new_…`` for the value that a column gets, and ``old_…`` for the value that it must have, because
SQLAlchemy takes a column's bare name for an assignment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

import sqlalchemy as sa

from backjob.stores.rows import After

Values: TypeAlias = dict[str, Any]
Selecting: TypeAlias = "sa.Select[*tuple[Any, ...]]"
Condition: TypeAlias = sa.ColumnElement[bool]

ZERO: Final[sa.ColumnElement[int]] = sa.literal_column("0", sa.SmallInteger())
ONE: Final[sa.ColumnElement[int]] = sa.literal_column("1", sa.SmallInteger())
_UTF8: Final[sa.ColumnElement[Any]] = sa.literal_column("utf8mb4")
TWO: Final[sa.ColumnElement[int]] = sa.literal_column("2", sa.SmallInteger())
"""Literals, as in the conditions of the partial indices."""


def big(name: str) -> sa.BindParameter[int]:
    """A parameter of 64 bits."""
    return sa.bindparam(name, type_=sa.BigInteger())


def list_of(name: str) -> sa.BindParameter[Any]:
    """A parameter for the values of ``IN (…)``, however many."""
    return sa.bindparam(name, expanding=True)


def one_of(column: sa.ColumnElement[Any], name: str, count: int) -> Condition:
    """Whether a column has one of ``count`` values, whose parameters `numbered_values` names."""
    return column.in_([sa.bindparam(f"{name}_{number}", type_=column.type) for number in range(count)])


def numbered_values(name: str, given: Iterable[Any]) -> Values:
    """The values of `one_of` under the names of its parameters."""
    return {f"{name}_{number}": value for number, value in enumerate(given)}


def in_utf8(text: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Bytes as text, in MariaDB and MySQL, whatever the character set of the connection."""
    return sa.func.convert(text.op("USING")(_UTF8))


def found_in(column: sa.ColumnElement[Any], name: str, *, is_mysql: bool) -> Condition:
    """Whether a column contains the text of a parameter, whatever the case of its letters."""
    part: sa.ColumnElement[Any] = sa.bindparam(name, type_=column.type)
    if not is_mysql:
        return sa.func.strpos(sa.func.lower(column), sa.func.lower(part)) > ZERO
    # Bytes have no letters, and a connection may have any character set.
    whole, part = (sa.func.lower(in_utf8(text)) for text in (column, part))
    return sa.func.locate(part, whole.collate("utf8mb4_bin")) > ZERO


def named_values(prefix: str, row: Mapping[str, Any]) -> Values:
    """A row's values under the names of the parameters."""
    return {
        f"{prefix}_{name}": value.microseconds if isinstance(value, After) else value for name, value in row.items()
    }
