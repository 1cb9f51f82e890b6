"""The values that travel between the parts: frozen, without I/O and without a clock.

Times are aware datetimes in UTC, ages and time-outs are seconds, sizes and offsets are bytes of UTF-8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum, IntEnum
from typing import Final, Literal, TypeAlias

from attrs import field, frozen

__all__ = [
    "LONGEST_STATUS_TEXT",
    "UNSET",
    "Caller",
    "Changes",
    "Credentials",
    "Draft",
    "Expect",
    "Grant",
    "Headers",
    "Job",
    "JobState",
    "JsonValue",
    "Output",
    "Query",
    "Report",
    "Request",
    "Response",
    "Status",
    "Unset",
    "clean_text",
    "short_text",
]

Headers: TypeAlias = tuple[tuple[str, str], ...]
"""Header fields in order, as (name, value); values are text in Latin-1."""

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
"""What ``finish(result=…)`` may carry: anything JSON can say."""


class Status(IntEnum):
    """Where a job stands. The last three are final: a job reaches one of them, and never leaves it."""

    STARTED = 0
    """Accepted, and not yet claimed by a worker request."""
    IN_PROGRESS = 1
    COMPLETED = 2
    FAILED = 3
    CANCELLED = 4

    @property
    def is_final(self) -> bool:
        return self >= Status.COMPLETED


class Unset(Enum):
    """The type of `UNSET`, which says "leave this field as it is" where None is a value of its own."""

    UNSET = "UNSET"

    def __bool__(self) -> Literal[False]:
        return False


UNSET: Final = Unset.UNSET


def clean_text(text: str) -> str:
    """The text as every store can keep it: NUL and lone surrogates become U+FFFD, all else stays."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


LONGEST_STATUS_TEXT: Final = 1 << 16
"""Characters of a status text; a longer one is cut there, and ends in an ellipsis."""


def short_text(text: str) -> str:
    """A status text as every store can keep it: clean, and cut at `LONGEST_STATUS_TEXT`."""
    return clean_text(text if len(text) <= LONGEST_STATUS_TEXT else text[:LONGEST_STATUS_TEXT] + " …")


def _names_only(headers: Headers) -> str:
    return "[" + ", ".join(name for name, _ in headers) + "]"


def _path_only(target: str) -> str:
    path, mark, _ = target.partition("?")
    return repr(path + "?…" if mark else path)


@frozen
class Request:
    """What is to be sent, or has arrived: framework-neutral. Its repr shows no query, no header value and no body.

    ``target`` is in origin-form (RFC 9112, section 3.2.1): a percent-encoded path and, after a ``?``, a query.
    ``raw`` is False where the server showed only a decoded path, from which ``target`` had to be built again.
    """

    method: str
    target: str = field(repr=_path_only)
    headers: Headers = field(default=(), repr=_names_only)
    body: bytes = field(default=b"", repr=lambda body: f"<{len(body)} bytes>")
    raw: bool = field(default=True, repr=False)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The query without its ``?``; empty where there is none."""
        return self.target.partition("?")[2]

    def header(self, name: str) -> str | None:
        """The values of a field, joined by ``", "`` (RFC 9110, section 5.3), or None."""
        wanted = name.lower()
        values = [value for key, value in self.headers if key.lower() == wanted]
        return ", ".join(values) if values else None


@frozen
class Response:
    """A complete answer to a worker request. ``body`` is its beginning, ``truncated`` if there was more of it."""

    status: int
    reason: str = ""
    headers: Headers = field(default=(), repr=_names_only)
    body: bytes = field(default=b"", repr=lambda body: f"<{len(body)} bytes>")
    truncated: bool = False

    def header(self, name: str) -> str | None:
        """The first value of a field, or None."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)


@frozen
class Credentials:
    """The header fields that make a worker request "the current user". Its repr shows their names alone."""

    headers: Headers = field(default=(), repr=_names_only)

    def __bool__(self) -> bool:
        return bool(self.headers)


@frozen
class Caller:
    """What the server saw of the request that called ``start()``, to be seen again by the action.

    ``forwarded`` holds the fields that proxies had added to it (``X-Forwarded-For`` and the like). ``mount`` is the path
    under which the application was mounted, where the job's target is known to begin with it.
    """

    scheme: str
    host: str
    address: str
    forwarded: Headers = field(default=(), repr=_names_only)
    mount: str = ""


@frozen(kw_only=True)
class Draft:
    """A job to be created. The store adds the times, by its own clock.

    ``due`` is an aware datetime, or the seconds from the store's now. With a ``lessee`` the first lease of ``lease``
    seconds is written with the row; without one, whichever monitor finds the job due takes it. ``held`` says that the
    accepting process holds the credentials; ``sealed`` is their encrypted form, which any process can open.
    """

    id: str
    request: Request
    caller: Caller | None = None
    owner: str | None = None
    scope: str = ""
    due: datetime | float = 0.0
    delivery_timeout: float = 600.0
    error_timeout: float = 60.0
    lessee: str | None = None
    lease: float = 0.0
    held: bool = False
    sealed: bytes | None = field(default=None, repr=False)
    depth: int = 0


@frozen(kw_only=True)
class Job:
    """One job as a store holds it. ``read_time`` is the store's clock at the moment of reading.

    ``start_time`` is when it is due, ``deliver_by`` how long it may stay STARTED, ``updated_time`` its last sign of life.
    ``request``, ``caller`` and ``sealed`` are erased at the end. ``token`` fences the writes of whoever claimed it.
    """

    id: str
    status: Status = Status.STARTED
    progress: int = 0
    status_text: str | None = None
    output_size: int = 0
    output_truncated: bool = False
    created_time: datetime
    start_time: datetime
    deliver_by: datetime
    updated_time: datetime
    end_time: datetime | None = None
    read_time: datetime
    error_timeout: float = 60.0
    attempt: int = 1
    version: int = 1
    token: str | None = field(default=None, repr=False)
    lessee: str | None = None
    lease_until: datetime | None = None
    merge_key: str | None = None
    owner: str | None = None
    scope: str = ""
    result: JsonValue = None
    request: Request | None = None
    caller: Caller | None = field(default=None, repr=False)
    held: bool = False
    sealed: bytes | None = field(default=None, repr=False)
    depth: int = 0


@frozen(kw_only=True)
class Expect:
    """The condition of a compare-and-set: every field that is not None must equal the row's."""

    status: Status | None = None
    attempt: int | None = None
    token: str | None = field(default=None, repr=False)
    version: int | None = None


@frozen(kw_only=True)
class Changes:
    """What a compare-and-set writes. Fields left UNSET (or False) stay; ``version`` always grows by one.

    ``lease`` is seconds from the store's now, or None to give the lease up; ``due`` moves ``start_time`` and, by
    ``delivery_timeout``, ``deliver_by``. ``alive`` stamps ``updated_time``. ``erase_sealed`` erases the sealed credentials.
    ``end`` stamps ``end_time``, erases request, caller and sealed credentials, and gives up the lease and the merge key.
    """

    status: Status | Unset = UNSET
    attempt: int | Unset = UNSET
    token: str | Unset = field(default=UNSET, repr=False)
    progress: int | Unset = UNSET
    status_text: str | Unset = UNSET
    result: JsonValue | Unset = UNSET
    lessee: str | Unset | None = UNSET
    lease: float | Unset | None = UNSET
    due: datetime | float | Unset = UNSET
    delivery_timeout: float = 600.0
    free_merge_key: bool = False
    alive: bool = False
    erase_sealed: bool = False
    end: bool = False


def _clamped(progress: int | None) -> int | None:
    return None if progress is None else max(0, min(100, progress))


@frozen(kw_only=True)
class Report:
    """What an action says while it runs, in one write. Any report is a sign of life.

    ``progress`` and ``text`` replace what the job has, ``output`` is appended as UTF-8; ``truncated`` marks that output past
    the limit was dropped. A progress beyond 0–100 becomes the nearest of the two.
    """

    progress: int | None = field(default=None, converter=_clamped)
    text: str | None = None
    output: str = ""
    truncated: bool = False


@frozen(kw_only=True)
class Query:
    """Which jobs to find, newest first. ``overdue``: only those past their time-out, by the store's own clock.

    ``before`` is a job id: the page that follows that job.
    """

    scope: str | None = None
    status: Status | None = None
    owner: str | None = None
    overdue: bool = False
    limit: int = 50
    before: str | None = None


@frozen
class Output:
    """A piece of a job's output. ``next_offset`` (bytes) is where the next piece begins."""

    text: str
    next_offset: int
    truncated: bool = False


@frozen
class Grant:
    """What a signature grants: one attempt at one job, from ``created`` until before ``expires`` (Unix time, s)."""

    job_id: str
    attempt: int
    created: int
    expires: int


@frozen(kw_only=True)
class JobState:
    """What a watcher may see of a job: its progress and its end, and nothing of its request."""

    id: str
    status: Status
    progress: int
    status_text: str
    start_time: datetime
    updated_time: datetime
    end_time: datetime | None
    result: JsonValue
    owner: str | None
    scope: str

    def as_dict(self) -> dict[str, JsonValue]:
        """JSON-ready: the status as its integer with ``status_name`` beside it, times in ISO 8601 with offset."""
        return {
            "id": self.id,
            "progress": self.progress,
            "status": int(self.status),
            "status_name": self.status.name,
            "status_text": self.status_text,
            "start_time": self.start_time.isoformat(),
            "updated_time": self.updated_time.isoformat(),
            "end_time": None if self.end_time is None else self.end_time.isoformat(),
            "result": self.result,
            "owner": self.owner,
            "scope": self.scope,
        }
