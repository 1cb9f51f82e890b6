"""A text field that compares byte for byte on every database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import models
from typing_extensions import override

__all__ = ["ExactField"]

if TYPE_CHECKING:  # only its stubs are generic
    _CharField = models.CharField[Any, Any]
else:
    _CharField = models.CharField


class ExactField(_CharField):
    """A `CharField` in which case, accents and trailing spaces count, whatever the collation of the database.

    On MySQL and MariaDB it stores bytes of UTF-8; the other databases compare text like this anyway.
    """

    @override
    def db_type(self, connection: Any) -> str | None:
        if connection.vendor == "mysql":
            return f"varbinary({4 * (self.max_length or 255)})"
        return super().db_type(connection)

    @override
    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        value = super().get_db_prep_value(value, connection, prepared)
        return value.encode() if connection.vendor == "mysql" and isinstance(value, str) else value

    def from_db_value(self, value: Any, _expression: object, _connection: object) -> str | None:
        """Return text for the bytes that the database returns."""
        return value.decode() if isinstance(value, bytes | bytearray) else value
