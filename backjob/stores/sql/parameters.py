"""Parameters and literals of the statements of `SQLStore`.

Parameters are named ``new_…`` for the value that a column gets, and ``old_…`` for the value that it must have, because
SQLAlchemy takes a column's bare name for an assignment.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    """A parameter for the values of ``IN (…)``."""
    return sa.bindparam(name, expanding=True)


def found_in(column: sa.ColumnElement[Any], name: str, *, is_mysql: bool) -> Condition:
    """Whether a column contains the text of a parameter, whatever the case of its letters."""
    part: sa.ColumnElement[Any] = sa.bindparam(name, type_=column.type)
    if not is_mysql:
        return sa.func.strpos(sa.func.lower(column), sa.func.lower(part)) > ZERO
    # Bytes have no letters, and a connection may have any character set.
    whole, part = (sa.func.lower(sa.func.convert(text.op("USING")(_UTF8))) for text in (column, part))
    return sa.func.locate(part, whole.collate("utf8mb4_bin")) > ZERO


def named_values(prefix: str, row: Mapping[str, Any]) -> Values:
    """A row's values under the names of the parameters."""
    return {
        f"{prefix}_{name}": value.microseconds if isinstance(value, After) else value for name, value in row.items()
    }
