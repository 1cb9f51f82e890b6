"""What an error of SQLAlchemy or a driver means: will it pass, or what is to be changed? None of them gets out."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from sqlalchemy import exc

from backjob.errors import BackJobError, InvalidRequest, StoreUnavailable, StoreUnusable

__all__ = ["FOREIGN", "Meaning", "driver_error", "meaning", "translated"]

FOREIGN: Final = (exc.SQLAlchemyError, UnicodeError, OverflowError)
"""What SQLAlchemy raises, and what a driver may raise about a value."""


class Meaning(Enum):
    """What has happened."""

    CONFLICT = "others stood in the way; the same step may succeed at once"
    DUPLICATE = "such a row exists already"
    MISSING = "a table does not exist"
    REFUSED = "the database can't keep such a value"
    UNUSABLE = "it won't work until the configuration is changed"
    UNAVAILABLE = "it may work later"


# PostgreSQL: SQLSTATEs and, by two characters, whole classes of them ("PostgreSQL Error Codes" in its manual).
_STATES: Final[Mapping[str, Meaning]] = {
    "40001": Meaning.CONFLICT,
    "40P01": Meaning.CONFLICT,
    "42P01": Meaning.MISSING,
    "22": Meaning.REFUSED,
    "54": Meaning.REFUSED,
    "0A": Meaning.UNUSABLE,
    "28": Meaning.UNUSABLE,
    "3D": Meaning.UNUSABLE,
    "3F": Meaning.UNUSABLE,
    "42": Meaning.UNUSABLE,
}
# MariaDB and MySQL: numbers ("MariaDB Error Code Reference").
_NUMBERS: Final[Mapping[int, Meaning]] = {
    1020: Meaning.CONFLICT,
    1213: Meaning.CONFLICT,
    1146: Meaning.MISSING,
    **dict.fromkeys((1153, 1264, 1366, 1406), Meaning.REFUSED),
    **dict.fromkeys((1044, 1045, 1046, 1049, 1142, 1143, 1227, 1251, 1524, 1698), Meaning.UNUSABLE),
    **dict.fromkeys((1290, 1792, 1836), Meaning.UNAVAILABLE),
}
# SQLite: primary result codes that stay.
_SQLITE_CODES: Final[Mapping[int, Meaning]] = {
    **dict.fromkeys((3, 8, 11, 23, 26), Meaning.UNUSABLE),  # PERM, READONLY, CORRUPT, AUTH, NOTADB
    **dict.fromkeys((18, 20, 25), Meaning.REFUSED),  # TOOBIG, MISMATCH, RANGE
}
# libpq tells in words alone why it could not connect. A server that speaks another language counts as not answering.
_STAYING: Final = (
    "authentication failed",
    "no pg_hba.conf entry",
    "no password supplied",
    " does not exist",
    "does not support SSL",
    "certificate verify failed",
)
_NAMES: Final[Mapping[str, Meaning]] = {
    "IntegrityError": Meaning.DUPLICATE,
    "DataError": Meaning.REFUSED,
    "ProgrammingError": Meaning.UNUSABLE,
    "NotSupportedError": Meaning.UNUSABLE,
}
"""What the classes mean that every driver has (PEP 249)."""


def meaning(error: BaseException) -> Meaning:
    """What an error of SQLAlchemy or of a driver means."""
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return Meaning.UNAVAILABLE
    cause = driver_error(error)
    if isinstance(cause, UnicodeError | OverflowError):
        return Meaning.REFUSED
    if isinstance(cause, exc.SQLAlchemyError):
        passing = isinstance(cause, exc.TimeoutError | exc.InvalidRequestError)
        return Meaning.UNAVAILABLE if passing else Meaning.UNUSABLE
    names = [kind.__name__ for kind in type(cause).__mro__]
    return _coded(cause) or next((_NAMES[name] for name in names if name in _NAMES), Meaning.UNAVAILABLE)


def driver_error(error: BaseException) -> BaseException:
    """The driver's own error, without what SQLAlchemy puts around it: that shows values, and some of them are secret."""
    return error.orig if isinstance(error, exc.StatementError) and error.orig is not None else error


def _coded(cause: BaseException) -> Meaning | None:
    """What the database's own code for it says."""
    number = cause.args[0] if cause.args else None
    if isinstance(number, int):
        return _NUMBERS.get(number)
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if state:
        return _STATES.get(state) or _STATES.get(state[:2])
    code = getattr(cause, "sqlite_errorcode", None)
    if code is not None:
        return _SQLITE_CODES.get(code & 0xFF) or (Meaning.MISSING if "no such table" in str(cause) else None)
    is_known = type(cause).__name__ == "OperationalError" and any(words in str(cause) for words in _STAYING)
    return Meaning.UNUSABLE if is_known else None


def translated(error: BaseException, name: str, table: str) -> BackJobError:
    """The error to raise instead, of the store that is called ``name``. It tells no SQL and no values of it."""
    found = meaning(error)
    words = _words(driver_error(error))
    if found is Meaning.DUPLICATE:
        return InvalidRequest("id", "a job with this id exists already")
    if found is Meaning.REFUSED:
        return InvalidRequest("value", f"the database can't keep this: {words}")
    if found is Meaning.MISSING:
        return StoreUnusable(
            f"{name}: there is no table {table!r}, or none of its output; open the store once with create_table=True, "
            "or run the SQL of `backjob schema`"
        )
    if found is Meaning.UNUSABLE:
        return StoreUnusable(f"{name}: {words}")
    return StoreUnavailable(f"{name}: {words}")


def _words(cause: BaseException) -> str:
    """The first line of what the driver says (others may show values), without the number that some put first."""
    lines = [line for argument in cause.args if isinstance(argument, str) for line in argument.splitlines()]
    return lines[0].strip() if lines else type(cause).__name__
