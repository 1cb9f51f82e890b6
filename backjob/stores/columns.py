"""The one list of a job's columns. Tables, hashes, records and the code that reads and writes them follow from it.

A new column needs a field in `backjob.model.Job` (and in `Draft` or `Changes`, if it is written through them), an entry
here, and for Django a field in `backjob.django.models.Job` with its migration.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from attrs import frozen

from backjob.model import DEFAULT_QUEUE


class Kind(Enum):
    """What a column holds. All but the last five are stored as integers."""

    STATUS = auto()
    FLAG = auto()
    SMALL = auto()
    """At most 16 bits."""
    INTEGER = auto()
    """At most 32 bits."""
    BIG = auto()
    """At most 64 bits."""
    MOMENT = auto()
    """Microseconds since 1970 in UTC."""
    SPAN = auto()
    """Seconds, stored as microseconds."""
    LABEL = auto()
    """Short text that is compared byte for byte."""
    TEXT = auto()
    JSON = auto()
    REQUEST = auto()
    """JSON of the request without its body, and of the caller."""
    BYTES = auto()


@frozen
class Column:
    """One column of a job."""

    name: str
    kind: Kind
    length: int | None = None
    """The most bytes of UTF-8 in a LABEL."""
    nullable: bool = False
    default: int | str | None = None
    """The stored value of a new job, unless it comes from the draft, and of jobs that are older than the column."""
    draft: bool = False
    """Copied from the `Draft` field of the same name."""
    changes: bool = False
    """Copied from the `Changes` field of the same name."""
    erased: bool = False
    """Set to NULL when the job ends."""

    @property
    def is_text(self) -> bool:
        return self.kind in (Kind.LABEL, Kind.TEXT, Kind.JSON, Kind.REQUEST)


JOB_COLUMNS: Final = (
    Column("id", Kind.LABEL, 255, draft=True),
    Column("status", Kind.STATUS, default=0, changes=True),
    Column("progress", Kind.SMALL, default=0, changes=True),
    Column("output_size", Kind.BIG, default=0),
    Column("output_truncated", Kind.FLAG, default=0),
    Column("created_time", Kind.MOMENT),
    Column("start_time", Kind.MOMENT),
    Column("deliver_by", Kind.MOMENT, nullable=True),
    Column("updated_time", Kind.MOMENT),
    Column("end_time", Kind.MOMENT, nullable=True),
    Column("error_timeout", Kind.SPAN, draft=True),
    Column("attempt", Kind.INTEGER, default=1, changes=True),
    Column("version", Kind.BIG, default=1),
    Column("held", Kind.FLAG, draft=True),
    Column("depth", Kind.INTEGER, draft=True),
    Column("token", Kind.LABEL, 255, nullable=True, changes=True),
    Column("lessee", Kind.LABEL, 255, nullable=True, draft=True, changes=True, erased=True),
    Column("lease_until", Kind.MOMENT, nullable=True, erased=True),
    Column("merge_key", Kind.LABEL, 255, nullable=True, erased=True),
    Column("owner", Kind.LABEL, 1020, nullable=True, draft=True),
    Column("scope", Kind.LABEL, 1020, draft=True),
    Column("label", Kind.LABEL, 255, default="", draft=True, changes=True),
    Column("proof", Kind.LABEL, 255, nullable=True, draft=True, changes=True, erased=True),
    Column("root", Kind.LABEL, 255, nullable=True, draft=True),
    Column("waiting_for", Kind.LABEL, 255, nullable=True, changes=True, erased=True),
    Column("run", Kind.INTEGER, default=1, changes=True),
    Column("delivery", Kind.INTEGER, default=1, changes=True),
    Column("retries", Kind.INTEGER, default=0, draft=True),
    Column("retry_delay", Kind.SPAN, default=10_000_000, draft=True),
    Column("queue", Kind.LABEL, 1020, default=DEFAULT_QUEUE, draft=True),
    Column("slot", Kind.LABEL, 255, nullable=True, changes=True, erased=True),
    Column("as_owner", Kind.FLAG, default=0, draft=True),
    Column("claimed_time", Kind.MOMENT, nullable=True),
    Column("expires", Kind.MOMENT, nullable=True, changes=True),
    Column("title", Kind.LABEL, 1020, nullable=True, draft=True),
    Column("method", Kind.LABEL, 80, default="", draft=True),
    Column("keep_request", Kind.FLAG, default=0, draft=True),
    Column("error", Kind.LABEL, 255, nullable=True, changes=True),
    Column("path", Kind.TEXT, nullable=True, draft=True),
    Column("request", Kind.REQUEST, nullable=True, erased=True),
    Column("status_text", Kind.TEXT, nullable=True, changes=True),
    Column("result", Kind.JSON, nullable=True, changes=True),
    Column("history", Kind.JSON, nullable=True, changes=True),
    Column("file", Kind.JSON, nullable=True, changes=True),
    Column("cursor", Kind.JSON, nullable=True, changes=True, erased=True),
    Column("sealed", Kind.BYTES, nullable=True, draft=True, changes=True, erased=True),
)
"""In the order of every table, long values last: SQLite reads a row from its front. The request's body is stored apart."""

COLUMNS: Final = tuple([column.name for column in JOB_COLUMNS])
"""The names of `JOB_COLUMNS`."""

_SECOND: Final = frozenset({"label", "proof", "root", "waiting_for"})
_THIRD: Final = frozenset(
    {
        *("run", "delivery", "retries", "retry_delay", "history", "cursor", "queue", "slot", "as_owner"),
        *("claimed_time", "expires"),
    }
)
_FOURTH: Final = frozenset({"title", "method", "path", "keep_request", "file", "error"})

LAYOUTS: Final = tuple(
    [tuple([column for column in JOB_COLUMNS if column.name in names]) for names in (_SECOND, _THIRD, _FOURTH)]
)
"""The columns that each later layout of the tables has added, oldest first."""

KEPT: Final = {"keep_request": ("request", "proof"), "keep_key": ("merge_key",)}
"""The columns that an end doesn't erase if `Changes` has this flag."""

ADDED: Final = tuple([column for column in JOB_COLUMNS if column.name in _SECOND | _THIRD | _FOURTH])
"""The columns that jobs of the first version lack."""
