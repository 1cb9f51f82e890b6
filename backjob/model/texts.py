"""The smallest values: a job's status, the mark of an unchanged field, JSON, and texts that every store can keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, IntEnum
from typing import Final, Literal, TypeAlias

Headers: TypeAlias = tuple[tuple[str, str], ...]
"""Header fields in order, as (name, value); values are text in Latin-1."""

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
"""The type of ``finish(result=…)``: anything that JSON can represent."""


class Status(IntEnum):
    """The status of a job. The last three are final: a job that reaches one of them never leaves it."""

    STARTED = 0
    """Accepted, but not yet claimed by a worker request."""
    IN_PROGRESS = 1
    COMPLETED = 2
    FAILED = 3
    CANCELLED = 4

    @property
    def is_final(self) -> bool:
        return self >= _FIRST_FINAL


_FIRST_FINAL: Final = int(Status.COMPLETED)  # looking up a member costs more than the comparison


class Unset(Enum):
    """The type of `UNSET`, which leaves a field unchanged where None is a value."""

    UNSET = "UNSET"

    def __bool__(self) -> Literal[False]:
        return False


UNSET: Final = Unset.UNSET


def clean_text(text: str) -> str:
    """The text with NUL and lone surrogates replaced by U+FFFD, so that every store can keep it."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


DEFAULT_QUEUE: Final = "default"
"""The queue of a job that names none."""

LONGEST_STATUS_TEXT: Final = 1 << 16
"""The most characters of a status text; a longer one is cut there and ends in an ellipsis."""


LONGEST_TAIL: Final = 1 << 16
"""The most bytes of UTF-8 in the tail of a job's output."""


def short_text(text: str) -> str:
    """A status text that every store can keep: cleaned, and cut at `LONGEST_STATUS_TEXT`."""
    return clean_text(text if len(text) <= LONGEST_STATUS_TEXT else text[:LONGEST_STATUS_TEXT] + " …")


def is_storable(text: str) -> bool:
    """Whether every store can keep this text: it has no NUL and no lone surrogate."""
    if "\0" in text:
        return False
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False
