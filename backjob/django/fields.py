"""A text field that compares byte for byte on every database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import models

from backjob.overriding import override

if TYPE_CHECKING:  # the class is generic only in its stubs
    _CharField = models.CharField[Any, Any]
else:
    _CharField = models.CharField


class ExactField(_CharField):
    """A `CharField` that distinguishes case, accents and trailing spaces, whatever the database's collation.

    On MySQL and MariaDB the column holds UTF-8 bytes; other databases compare text that way already.
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
        """The text, also if the database returns bytes."""
        return value.decode() if isinstance(value, bytes | bytearray) else value
