"""A job and the operations of a store on it: its draft, the conditions and changes of a write, reports, searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence  # noqa: F401 - `JsonValue` names them, for who resolves the annotations
from datetime import datetime
from typing import Any, Final

from attrs import Attribute, field, fields, frozen

from backjob.errors import InvalidRequest
from backjob.model.checks import (
    COUNT,
    ID,
    LABEL,
    check_ages,
    check_datetime,
    check_json,
    check_moment,
    check_number,
    check_seconds,
    check_text,
    clamped,
)
from backjob.model.requests import Caller, Request
from backjob.model.texts import DEFAULT_QUEUE, LONGEST_TAIL, UNSET, JsonValue, Status, Unset


@frozen(kw_only=True)
class Draft:
    """A job to create. The store adds the times, by its own clock.

    ``due`` and ``expires`` are aware datetimes, or seconds from the store's now. With a ``lessee`` the store writes the
    first lease, of ``lease`` seconds; without one, any monitor takes the job once it is due. ``held`` means that only the
    accepting process has the credentials; ``sealed`` is their encrypted form, which any process can open; ``as_owner``
    means that the action runs as the job's owner, without credentials. ``label`` names the application, ``proof``
    authenticates the row, and ``root`` is the id of the first job of a chain, or None for that job itself. ``title`` is
    what users read instead of the path. With ``keep_request`` the request stays after the end, so that the job can run again.
    Raises `InvalidRequest`, naming the field, for what no store can keep.
    """

    id: str = field(validator=ID)
    request: Request
    caller: Caller | None = None
    owner: str | None = field(default=None, validator=LABEL)
    scope: str = field(default="", validator=LABEL)
    due: datetime | float = field(default=0.0, validator=check_moment)
    expires: datetime | float | None = field(default=None, validator=check_moment)
    error_timeout: float = field(default=3600.0, validator=check_seconds)
    retries: int = field(default=0, validator=COUNT)
    retry_delay: float = field(default=10.0, validator=check_seconds)
    queue: str = field(default=DEFAULT_QUEUE, validator=LABEL)
    lessee: str | None = field(default=None, validator=LABEL)
    lease: float = field(default=0.0, validator=check_seconds)
    held: bool = False
    sealed: bytes | None = field(default=None, repr=False)
    as_owner: bool = False
    depth: int = field(default=0, validator=COUNT)
    label: str = field(default="", validator=ID)
    proof: str | None = field(default=None, repr=False, validator=ID)
    root: str | None = field(default=None, validator=ID)
    title: str | None = field(default=None, validator=LABEL)
    keep_request: bool = False

    def proven(self, label: str, proof: str) -> Draft:
        """Return this draft with its label and its row proof, both of them ASCII. It is not checked again."""
        copy = Draft.__new__(Draft)
        for name in _DRAFT_FIELDS:
            object.__setattr__(copy, name, getattr(self, name))
        object.__setattr__(copy, "label", label)
        object.__setattr__(copy, "proof", proof)
        return copy

    @property
    def method(self) -> str:
        """The method of the request, which stays after the end."""
        return self.request.method

    @property
    def path(self) -> str:
        """The path of the request without its query, which stays after the end."""
        return self.request.path


_DRAFT_FIELDS: Final = tuple([each.name for each in fields(Draft)])


@frozen(kw_only=True)
class Job:
    """A job as read from a store at ``read_time``, by the store's clock.

    ``start_time`` is when it is due, ``claimed_time`` when its current or last run was claimed, and ``updated_time`` its
    last sign of life. A waiting job must be claimed before ``expires``, and before ``deliver_by``, which is None until the
    first delivery of a run has failed or takes long. Its end erases ``request``, ``caller``, ``sealed`` and ``proof``; of these
    a job with ``keep_request`` keeps all but ``sealed``.

    ``run`` grows with every requeue, ``delivery`` counts the deliveries of a run, and ``attempt`` the runs that failed since
    the last checkpoint, this one included. ``token`` fences the writes of a run; a job without one, unless it has ended,
    waits to be claimed. ``lease_until`` ends the lease of the monitor that delivers it, and after the claim that of the run.
    ``error_timeout`` 0 means none.

    The request's body is only there if it was asked for: see `backjob.protocols.Store.get`. ``waiting_for`` is why a
    job was not delivered yet, in one word; the claim and the end erase it. A job with the ``label`` "" belongs to no
    application. ``method`` and ``path`` (without the query) stay after the end; older jobs have "" and None. ``file``
    describes the file that the job has made, or is None; it is complete once it has a ``size``. ``error`` is ``"unexpected"``
    if the status text is that of an exception or of a 5xx body.
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
    title: str | None = None
    method: str = ""
    path: str | None = None
    keep_request: bool = False
    file: JsonValue = None
    error: str | None = None

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
    sealed credentials, proof, cursor and ``waiting_for``, and releases the lease, the merge key and the slot; but with
    ``keep_request`` request, caller and proof stay, and with ``keep_key`` the merge key. Raises `InvalidRequest`, naming the
    field, for what no store can keep.
    """

    status: Status | Unset = UNSET
    run: int | Unset = field(default=UNSET, validator=COUNT)
    attempt: int | Unset = field(default=UNSET, validator=COUNT)
    delivery: int | Unset = field(default=UNSET, validator=COUNT)
    token: str | Unset | None = field(default=UNSET, repr=False, validator=ID)
    progress: int | Unset = field(default=UNSET, validator=check_number(0, 100))
    status_text: str | Unset = field(default=UNSET, validator=check_text())
    result: JsonValue | Unset = field(default=UNSET, validator=check_json)
    lessee: str | Unset | None = field(default=UNSET, validator=LABEL)
    lease: float | Unset | None = field(default=UNSET, validator=check_seconds)
    due: datetime | float | Unset = field(default=UNSET, validator=check_moment)
    deliver_by: float | Unset | None = field(default=UNSET, validator=check_seconds)
    expires: Unset | None = UNSET
    slot: str | Unset | None = field(default=UNSET, validator=ID)
    cursor: JsonValue | Unset = field(default=UNSET, repr=False, validator=check_json)
    history: JsonValue | Unset = field(default=UNSET, validator=check_json)
    label: str | Unset = field(default=UNSET, validator=ID)
    proof: str | Unset | None = field(default=UNSET, repr=False, validator=ID)
    sealed: bytes | Unset = field(default=UNSET, repr=False)
    waiting_for: str | Unset | None = field(default=UNSET, validator=ID)
    file: JsonValue | Unset = field(default=UNSET, validator=check_json)
    error: str | Unset | None = field(default=UNSET, validator=ID)
    free_merge_key: bool = False
    claimed: bool = False
    alive: bool = False
    end: bool = False
    keep_request: bool = False
    keep_key: bool = False

    @property
    def erases_body(self) -> bool:
        """Whether the body of the request goes too."""
        return self.end and not self.keep_request


_check_tail_text: Final = check_text(largest=LONGEST_TAIL)


def _check_tail(report: Report, attribute: Attribute[Any], value: object) -> None:
    if value is UNSET:
        return
    if not report.truncated:
        raise InvalidRequest("tail", "only output that was cut has a tail: set truncated too")
    _check_tail_text(report, attribute, value)


@frozen(kw_only=True)
class Report:
    """What a running action reports, in one write. Any report, even an empty one, is a sign of life.

    ``progress`` (clamped to 0–100), ``text`` and ``cursor`` replace the job's; the store appends ``output`` as UTF-8.
    ``truncated`` records that output past the limit was dropped, and ``tail``, the end of what followed, replaces the job's
    tail; it needs ``truncated``. A cursor also sets ``attempt`` to 1: the job has made progress.
    """

    progress: int | None = field(default=None, converter=clamped)
    text: str | None = field(default=None, validator=check_text())
    output: str = field(default="", validator=check_text())
    truncated: bool = False
    cursor: JsonValue | Unset = field(default=UNSET, repr=False, validator=check_json)
    tail: str | Unset = field(default=UNSET, repr=False, validator=_check_tail)

    @classmethod
    def of_checked(
        cls,
        progress: int | None,
        text: str | None,
        output: str,
        *,
        truncated: bool,
        cursor: JsonValue | Unset,
        tail: str | Unset,
    ) -> Report:
        """Return a report of values that were checked when the action passed them. They are not checked again."""
        report = cls.__new__(cls)
        object.__setattr__(report, "progress", progress)
        object.__setattr__(report, "text", text)
        object.__setattr__(report, "output", output)
        object.__setattr__(report, "truncated", truncated)
        object.__setattr__(report, "cursor", cursor)
        object.__setattr__(report, "tail", tail)
        return report


@frozen(kw_only=True)
class Query:
    """A search for jobs, newest first. ``overdue`` finds only those past their timeout, by the store's own clock.

    ``statuses`` limits it to jobs with one of these statuses, ``labels`` to those with one of these labels, ``root`` to the
    chain that began with this job. ``text`` is a part of the title or the path; ASCII letters match in either case, and
    every other character matches itself. ``expired`` has the two ages of `Store.purge`, and finds the jobs that are older,
    those with a file included; with ``has_file`` only jobs with a file match.

    ``before`` is a job id; the page begins after that job. If that job is unknown, or no ``before`` is given, the page
    begins after ``before_time``: with the jobs that were created earlier.
    """

    scope: str | None = field(default=None, validator=check_text())
    status: Status | None = None
    owner: str | None = field(default=None, validator=check_text())
    overdue: bool = False
    limit: int = field(default=50, validator=check_number(0, (1 << 63) - 1))
    before: str | None = field(default=None, validator=check_text())
    labels: frozenset[str] | None = None
    root: str | None = field(default=None, validator=check_text())
    statuses: frozenset[Status] | None = None
    queue: str | None = field(default=None, validator=check_text())
    text: str = field(default="", validator=check_text())
    before_time: datetime | None = field(default=None, validator=check_datetime)
    expired: tuple[float, float] | None = field(default=None, validator=check_ages)
    has_file: bool = False


@frozen
class Output:
    """A chunk of a job's output. ``next_offset`` (bytes) is where the next chunk begins.

    ``tail`` is the latest output after the part that was dropped. Only a chunk that reaches the end of the output has it.
    """

    text: str
    next_offset: int
    truncated: bool = False
    tail: str = ""


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
