"""A search for a part of a text, whatever the database's collation."""

from __future__ import annotations

from typing import Any

from django.db.models import F, Q, TextField, Value
from django.db.models.functions import Lower, StrIndex
from django.db.models.lookups import GreaterThan


def contains(column: str, part: str) -> Any:
    """Whether a column contains this text, whatever the case of its letters."""
    found: Any = StrIndex(_Folded(F(column)), _Folded(Value(part)))
    return Q(GreaterThan(found, 0))


class _Folded(Lower):
    """A text in lower case. On MySQL and MariaDB, where a column may hold bytes, it has no accents that count as equal."""

    def __init__(self, text: Any) -> None:
        super().__init__(text, output_field=TextField())

    def as_mysql(self, compiler: Any, connection: Any, **_: Any) -> Any:
        return self.as_sql(
            compiler, connection, template="LOWER(CONVERT(%(expressions)s USING utf8mb4)) COLLATE utf8mb4_bin"
        )
