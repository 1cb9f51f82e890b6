"""The values that the parts exchange: frozen, and valid once constructed, so that every store can keep them.

Times are aware datetimes in UTC, ages and timeouts are seconds, sizes and offsets are bytes of UTF-8.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum, IntEnum
from typing import Any, Final, Literal, TypeAlias

from attrs import Attribute, evolve, field, frozen

from backjob.errors import InvalidRequest

__all__ = [
    "DEFAULT_QUEUE",
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
    "is_storable",
    "short_text",
]

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
        return self >= Status.COMPLETED


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


def short_text(text: str) -> str:
    """A status text that every store can keep: cleaned, and cut at `LONGEST_STATUS_TEXT`."""
    return clean_text(text if len(text) <= LONGEST_STATUS_TEXT else text[:LONGEST_STATUS_TEXT] + " …")


# --- validators -----------------------------------------------------------------------------------------------------

_EARLIEST: Final = -60e9  # s: about 1900 years ago
_LATEST: Final = 221e9  # s: about 7000 years ahead; from any now, both are within the calendar

_Validator: TypeAlias = "Callable[[Any, Attribute[Any], Any], None]"


def is_storable(text: str) -> bool:
    """Whether every store can keep this text: it has no NUL and no lone surrogate."""
    if "\0" in text:
        return False
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _text(longest: int | None = None) -> _Validator:
    def check(_: object, attribute: Attribute[Any], value: object) -> None:
        if not isinstance(value, str):
            return
        if not is_storable(value):
            raise InvalidRequest(
                attribute.name, "contains NUL or a lone surrogate, which no store can keep; clean_text() replaces them"
            )
        if longest is not None and len(value) > longest:
            raise InvalidRequest(attribute.name, f"at most {longest} characters are allowed")

    return check


def _number(least: int, largest: int) -> _Validator:
    def check(_: object, attribute: Attribute[Any], value: object) -> None:
        if isinstance(value, int) and not least <= value <= largest:
            raise InvalidRequest(attribute.name, f"expected a number from {least} to {largest}")

    return check


def _seconds(_: object, attribute: Attribute[Any], value: float | Unset | None) -> None:
    if isinstance(value, int | float) and not _EARLIEST < value < _LATEST:  # NaN fails this too
        raise InvalidRequest(attribute.name, "this moment is outside of the calendar")


def _moment(instance: object, attribute: Attribute[Any], value: datetime | float | Unset | None) -> None:
    """Check an aware datetime, or seconds from now."""
    if not isinstance(value, datetime):
        _seconds(instance, attribute, value)
        return
    if value.utcoffset() is None:
        raise InvalidRequest(attribute.name, "a datetime needs a time zone")
    try:
        _ = value.astimezone(UTC)
    except OverflowError:
        raise InvalidRequest(attribute.name, "this moment is outside of the calendar") from None


def _json(_: object, attribute: Attribute[Any], value: object) -> None:
    if value is None or value is UNSET:
        return
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(attribute.name, f"JSON can't represent this: {error}") from None


_ID: Final = _text(128)
_LABEL: Final = _text(255)
_COUNT: Final = _number(0, (1 << 31) - 1)


def _clamped(progress: int | None) -> int | None:
    return None if progress is None else max(0, min(100, progress))


def _names_only(headers: Headers) -> str:
    return "[" + ", ".join(name for name, _ in headers) + "]"


def _path_only(target: str) -> str:
    path, mark, _ = target.partition("?")
    return repr(path + "?…" if mark else path)


@frozen
class Request:
    """A request to send, or one that arrived, for any framework. Its repr shows no query, no header value and no body.

    ``target`` is in origin-form (RFC 9112, section 3.2.1): a percent-encoded path and, after a ``?``, a query.
    ``raw`` is False if the server provided only a decoded path, from which ``target`` was rebuilt. ``mount`` is the
    beginning of a worker request's target that is not signed: the server moves it to SCRIPT_NAME or root_path, and the
    application routes the rest.
    """

    method: str
    target: str = field(repr=_path_only)
    headers: Headers = field(default=(), repr=_names_only)
    body: bytes = field(default=b"", repr=lambda body: f"<{len(body)} bytes>")
    raw: bool = field(default=True, repr=False)
    mount: str = field(default="", repr=False)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def with_path(self, path: str, *, raw: bool) -> Request:
        """Return this request with another path and the same query."""
        return evolve(self, target=f"{path}?{self.query}" if self.query else path, raw=raw)

    @property
    def query(self) -> str:
        """The query without its ``?``; empty if there is none."""
        return self.target.partition("?")[2]

    def header(self, name: str) -> str | None:
        """The values of a field, joined by ``", "`` (RFC 9110, section 5.3), or None."""
        wanted = name.lower()
        values = [value for key, value in self.headers if key.lower() == wanted]
        return ", ".join(values) if values else None


@frozen
class Response:
    """A complete response to a worker request. ``body`` is its beginning, and not all of it if ``truncated``."""

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
    """The header fields that authenticate a worker request as the current user. Its repr shows only their names."""

    headers: Headers = field(default=(), repr=_names_only)

    def __bool__(self) -> bool:
        return bool(self.headers)


@frozen
class Caller:
    """The origin of the request that called ``start()``; the action sees the same.

    ``forwarded`` has the fields that proxies added (``X-Forwarded-For`` and the like). ``mount`` is the path under which
    the application is mounted as its users see it: SCRIPT_NAME or root_path, percent-encoded.
    """

    scheme: str
    host: str
    address: str
    forwarded: Headers = field(default=(), repr=_names_only)
    mount: str = ""


@frozen(kw_only=True)
class Draft:
    """A job to create. The store adds the times, by its own clock.

    ``due`` and ``expires`` are aware datetimes, or seconds from the store's now. With a ``lessee`` the store writes the
    first lease, of ``lease`` seconds; without one, any monitor takes the job once it is due. ``held`` means that only the
    accepting process has the credentials; ``sealed`` is their encrypted form, which any process can open; ``as_owner``
    means that the action runs as the job's owner, without credentials. ``label`` names the application, ``proof``
    authenticates the row, and ``root`` is the id of the first job of a chain, or None for that job itself. Raises
    `InvalidRequest`, naming the field, for what no store can keep.
    """

    id: str = field(validator=_ID)
    request: Request
    caller: Caller | None = None
    owner: str | None = field(default=None, validator=_LABEL)
    scope: str = field(default="", validator=_LABEL)
    due: datetime | float = field(default=0.0, validator=_moment)
    expires: datetime | float | None = field(default=None, validator=_moment)
    error_timeout: float = field(default=3600.0, validator=_seconds)
    retries: int = field(default=0, validator=_COUNT)
    retry_delay: float = field(default=10.0, validator=_seconds)
    queue: str = field(default=DEFAULT_QUEUE, validator=_LABEL)
    lessee: str | None = field(default=None, validator=_LABEL)
    lease: float = field(default=0.0, validator=_seconds)
    held: bool = False
    sealed: bytes | None = field(default=None, repr=False)
    as_owner: bool = False
    depth: int = field(default=0, validator=_COUNT)
    label: str = field(default="", validator=_ID)
    proof: str | None = field(default=None, repr=False, validator=_ID)
    root: str | None = field(default=None, validator=_ID)


@frozen(kw_only=True)
class Job:
    """A job as read from a store at ``read_time``, by the store's clock.

    ``start_time`` is when it is due, ``claimed_time`` when its current or last run was claimed, and ``updated_time`` its
    last sign of life. A waiting job must be claimed before ``expires``, and before ``deliver_by``, which is None until the
    first delivery of a run has failed or takes long. Its end erases ``request``, ``caller``, ``sealed`` and ``proof``.

    ``run`` grows with every requeue, ``delivery`` counts the deliveries of a run, and ``attempt`` the runs that failed since
    the last checkpoint, this one included. ``token`` fences the writes of a run; a job without one, unless it has ended,
    waits to be claimed. ``lease_until`` ends the lease of the monitor that delivers it, and after the claim that of the run.
    ``error_timeout`` 0 means none.

    The request's body is only there if it was asked for: see `backjob.protocols.Store.get`. ``waiting_for`` is why a
    job was not delivered yet, in one word; the claim and the end erase it. A job with the ``label`` "" belongs to no
    application.
    """

    id: str
    status: Status = Status.STARTED
    progress: int = 0
    status_text: str | None = None
    output_size: int = 0
    output_truncated: bool = False
    created_time: datetime
    start_time: datetime
    deliver_by: datetime | None = None
    updated_time: datetime
    end_time: datetime | None = None
    read_time: datetime
    error_timeout: float = 3600.0
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
    label: str = ""
    proof: str | None = field(default=None, repr=False)
    root: str | None = None
    waiting_for: str | None = None
    run: int = 1
    delivery: int = 1
    retries: int = 0
    retry_delay: float = 10.0
    history: JsonValue = None
    cursor: JsonValue = field(default=None, repr=False)
    queue: str = DEFAULT_QUEUE
    slot: str | None = None
    as_owner: bool = False
    claimed_time: datetime | None = None
    expires: datetime | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether the job waits to be claimed: STARTED, or IN_PROGRESS between two slices."""
        return self.token is None and not self.status.is_final


@frozen(kw_only=True)
class Expect:
    """The condition of a compare-and-set: every field that is not None must equal the job's.

    ``unclaimed``: the job has no token and has not ended. ``lease_over``: it has a ``lease_until``, which is not later than
    the store's now.
    """

    status: Status | None = None
    run: int | None = None
    token: str | None = field(default=None, repr=False)
    version: int | None = None
    unclaimed: bool = False
    lease_over: bool = False


@frozen(kw_only=True)
class Changes:
    """The fields that a compare-and-set writes; those left UNSET (or False) stay. ``version`` always grows by one.

    ``lease`` and ``deliver_by`` are seconds from the store's now, or None for NULL; ``due`` moves ``start_time``. ``claimed``
    sets ``claimed_time`` to now, ``alive`` sets ``updated_time``. ``end`` sets ``end_time`` to now, erases request, caller,
    sealed credentials, proof, cursor and ``waiting_for``, and releases the lease, the merge key and the slot. Raises
    `InvalidRequest`, naming the field, for what no store can keep.
    """

    status: Status | Unset = UNSET
    run: int | Unset = field(default=UNSET, validator=_COUNT)
    attempt: int | Unset = field(default=UNSET, validator=_COUNT)
    delivery: int | Unset = field(default=UNSET, validator=_COUNT)
    token: str | Unset | None = field(default=UNSET, repr=False, validator=_ID)
    progress: int | Unset = field(default=UNSET, validator=_number(0, 100))
    status_text: str | Unset = field(default=UNSET, validator=_text())
    result: JsonValue | Unset = field(default=UNSET, validator=_json)
    lessee: str | Unset | None = field(default=UNSET, validator=_LABEL)
    lease: float | Unset | None = field(default=UNSET, validator=_seconds)
    due: datetime | float | Unset = field(default=UNSET, validator=_moment)
    deliver_by: float | Unset | None = field(default=UNSET, validator=_seconds)
    expires: Unset | None = UNSET
    slot: str | Unset | None = field(default=UNSET, validator=_ID)
    cursor: JsonValue | Unset = field(default=UNSET, repr=False, validator=_json)
    history: JsonValue | Unset = field(default=UNSET, validator=_json)
    label: str | Unset = field(default=UNSET, validator=_ID)
    proof: str | Unset | None = field(default=UNSET, repr=False, validator=_ID)
    sealed: bytes | Unset = field(default=UNSET, repr=False)
    waiting_for: str | Unset | None = field(default=UNSET, validator=_ID)
    free_merge_key: bool = False
    claimed: bool = False
    alive: bool = False
    end: bool = False


@frozen(kw_only=True)
class Report:
    """What a running action reports, in one write. Any report, even an empty one, is a sign of life.

    ``progress`` (clamped to 0–100), ``text`` and ``cursor`` replace the job's; the store appends ``output`` as UTF-8.
    ``truncated`` records that output past the limit was dropped. A cursor also sets ``attempt`` to 1: the job has made progress.
    """

    progress: int | None = field(default=None, converter=_clamped)
    text: str | None = field(default=None, validator=_text())
    output: str = field(default="", validator=_text())
    truncated: bool = False
    cursor: JsonValue | Unset = field(default=UNSET, repr=False, validator=_json)


@frozen(kw_only=True)
class Query:
    """A search for jobs, newest first. ``overdue`` finds only those past their timeout, by the store's own clock.

    ``labels`` limits it to jobs with one of these labels, ``root`` to the chain that began with this job. ``before`` is a
    job id; the page begins after that job.
    """

    scope: str | None = field(default=None, validator=_text())
    status: Status | None = None
    owner: str | None = field(default=None, validator=_text())
    overdue: bool = False
    limit: int = field(default=50, validator=_number(0, (1 << 63) - 1))
    before: str | None = field(default=None, validator=_text())
    labels: frozenset[str] | None = None
    root: str | None = field(default=None, validator=_text())


@frozen
class Output:
    """A chunk of a job's output. ``next_offset`` (bytes) is where the next chunk begins."""

    text: str
    next_offset: int
    truncated: bool = False


@frozen
class Grant:
    """The right that a signature grants: one run of one job, while ``created`` ≤ now < ``expires`` (Unix time, s).

    ``delivery`` counts the deliveries of this run, so that no two requests are equal.
    """

    job_id: str
    run: int
    delivery: int
    created: int
    expires: int


@frozen(kw_only=True)
class JobState:
    """The part of a job that a watcher may see: progress and result, but nothing of its request.

    ``waiting_for`` is why the job does not run yet, in one word such as ``"due"``, or None. ``attempt`` is 1 or, after
    failed runs, more, up to ``retries`` + 1. ``history`` has an entry for each earlier run: ``run``, ``begin``, ``end`` and
    ``reason``.
    """

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
    waiting_for: str | None = None
    attempt: int = 1
    retries: int = 0
    history: Sequence[Mapping[str, JsonValue]] = ()

    def as_dict(self) -> dict[str, JsonValue]:
        """JSON-ready: the status as its integer and as ``status_name``, times in ISO 8601 with offset."""
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
            "waiting_for": self.waiting_for,
            "attempt": self.attempt,
            "retries": self.retries,
            "history": [dict(entry) for entry in self.history],
        }
