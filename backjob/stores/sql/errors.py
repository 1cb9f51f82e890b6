"""The meaning of an exception of SQLAlchemy or a driver, and the `BackJobError` to raise instead."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from sqlalchemy import exc

from backjob.errors import BackJobError, InvalidRequest, StoreUnavailable, StoreUnusable

FOREIGN: Final = (exc.SQLAlchemyError, UnicodeError, OverflowError)
"""The exceptions of SQLAlchemy, and those that a driver may raise for a value."""


class Meaning(Enum):
    """The reason for a failure."""

    CONFLICT = "another transaction interfered; an immediate retry may succeed"
    DUPLICATE = "such a row exists already"
    MISSING = "a table does not exist"
    REFUSED = "the database can't store this value"
    UNUSABLE = "it will fail until the configuration is changed"
    UNAVAILABLE = "it may succeed later"


# PostgreSQL: SQLSTATEs, or their first two characters for a whole class ("PostgreSQL Error Codes" in its manual).
_STATES: Final[Mapping[str, Meaning]] = {
    **dict.fromkeys(("40001", "40P01"), Meaning.CONFLICT),
    "42P01": Meaning.MISSING,
    **dict.fromkeys(("22", "54"), Meaning.REFUSED),
    **dict.fromkeys(("0A", "28", "3D", "3F", "42"), Meaning.UNUSABLE),
}
# MariaDB and MySQL: numbers ("MariaDB Error Code Reference").
_NUMBERS: Final[Mapping[int, Meaning]] = {
    **dict.fromkeys((1020, 1213), Meaning.CONFLICT),
    1146: Meaning.MISSING,
    **dict.fromkeys((1153, 1264, 1267, 1300, 1366, 1406, 3854, 3988), Meaning.REFUSED),
    **dict.fromkeys((1044, 1045, 1046, 1049, 1142, 1143, 1227, 1251, 1524, 1698), Meaning.UNUSABLE),
    **dict.fromkeys((1290, 1792, 1836), Meaning.UNAVAILABLE),
}
# A failed connection of libpq has a text and no code. A text in another language counts as UNAVAILABLE.
_UNUSABLE_TEXTS: Final = (
    "authentication failed",
    "no pg_hba.conf entry",
    "no password supplied",
    " does not exist",
    "does not support SSL",
    "certificate verify failed",
)
_CLASSES: Final[Mapping[str, Meaning]] = {
    "IntegrityError": Meaning.DUPLICATE,
    "DataError": Meaning.REFUSED,
    "ProgrammingError": Meaning.UNUSABLE,
    "NotSupportedError": Meaning.UNUSABLE,
}
"""The exception classes of every driver (PEP 249)."""


def meaning(error: BaseException) -> Meaning:
    """The meaning of an exception of SQLAlchemy or a driver."""
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return Meaning.UNAVAILABLE
    cause = driver_error(error)
    if isinstance(cause, UnicodeError | OverflowError):
        return Meaning.REFUSED
    if isinstance(cause, exc.SQLAlchemyError):
        may_pass = isinstance(cause, exc.TimeoutError | exc.InvalidRequestError)
        return Meaning.UNAVAILABLE if may_pass else Meaning.UNUSABLE
    names = [kind.__name__ for kind in type(cause).__mro__]
    return _coded(cause) or next((_CLASSES[name] for name in names if name in _CLASSES), Meaning.UNAVAILABLE)


def driver_error(error: BaseException) -> BaseException:
    """The driver's own exception. SQLAlchemy's exception around it shows values, some of which are secret."""
    return error.orig if isinstance(error, exc.StatementError) and error.orig is not None else error


def _coded(cause: BaseException) -> Meaning | None:
    """The meaning of the database's error code."""
    number = cause.args[0] if cause.args else None
    if isinstance(number, int):
        return _NUMBERS.get(number)
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if state:
        return _STATES.get(state) or _STATES.get(state[:2])
    is_known = type(cause).__name__ == "OperationalError" and any(text in str(cause) for text in _UNUSABLE_TEXTS)
    return Meaning.UNUSABLE if is_known else None


def translated(error: BaseException, name: str, table: str) -> BackJobError:
    """The exception to raise instead, for the database ``name``. It contains neither SQL nor values."""
    found = meaning(error)
    text = _first_line(driver_error(error))
    if found is Meaning.DUPLICATE:
        return InvalidRequest("id", "a job with this id exists already")
    if found is Meaning.REFUSED:
        return InvalidRequest("value", f"the database can't store this: {text}")
    if found is Meaning.MISSING:
        return StoreUnusable(
            f"{name}: there is no table {table!r}, or no table of its output; open the store once with "
            "create_table=True, or run the SQL of `backjob schema`"
        )
    if found is Meaning.UNUSABLE:
        return StoreUnusable(f"{name}: {text}")
    return StoreUnavailable(f"{name}: {text}")


def _first_line(cause: BaseException) -> str:
    """The first line of the driver's message (later lines may show values), without its number."""
    lines = [line for argument in cause.args if isinstance(argument, str) for line in argument.splitlines()]
    return lines[0].strip() if lines else type(cause).__name__
