"""The contracts between the parts, as `typing.Protocol`: implement the methods, there is nothing to subclass.

`backjob.testing` has a test suite for implementations of Store, Transport, Signer and Files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from enum import Enum
from typing import BinaryIO, Protocol, runtime_checkable

from backjob.clock import Clock
from backjob.model import (
    UNSET,
    Caller,
    Changes,
    Credentials,
    Draft,
    Expect,
    Grant,
    Headers,
    Job,
    JobState,
    JsonValue,
    Output,
    Query,
    Report,
    Request,
    Response,
    Status,
    Unset,
)

__all__ = [
    "UNSET",
    "Caller",
    "Capability",
    "Changes",
    "Clock",
    "Credentials",
    "Delivery",
    "Draft",
    "Expect",
    "Files",
    "Grant",
    "Headers",
    "Job",
    "JobState",
    "JsonValue",
    "Output",
    "Query",
    "Report",
    "ReportsTogether",
    "Request",
    "Response",
    "Signer",
    "Status",
    "Store",
    "Transport",
    "Unset",
    "Verified",
    "lacks",
    "report_all_of",
]


@runtime_checkable
class Store(Protocol):
    """Stores jobs. Synchronous and callable from any thread; the state machine is the core's.

    Every write is atomic, and durable when the method returns. Times come from the store's own clock. Every method raises
    `StoreUnavailable` when the store can't be reached for now; only a later read shows whether the write was made.

    A job has the ``version`` 1 when it is created. Each `change`, each `report` and each `take_due` that writes the job
    raises it by one; a `beat` does not.

    A process may fork at any time. The child must neither use nor close the connections that it inherits: it opens its own.
    `backjob.process.PerProcess` keeps a value for each process.
    """

    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        """Write a new job with its first lease, or return the job that already holds the merge key and write nothing.

        Raises `InvalidRequest` with the field ``id`` if a job with this id exists, unless the merge key decides first.
        """
        ...

    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        """The job without its output, or None.

        Only with ``body`` must its request have its body; otherwise reading must cost the same whatever the body's size.
        """
        ...

    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        """At most ``limit`` bytes (4 or more) of output from byte ``offset``, never splitting a character.

        An offset at or past the end gives an empty chunk, whose ``next_offset`` is that offset and not the end. An offset
        below 0 is 0, and one inside a character moves to the next one. An unknown job has no output. Each chunk has the
        job's ``truncated``, and one that reaches the end of the output its ``tail``. Other chunks cost nothing more because
        of a tail, and `get` and `find` never read it. Raises `InvalidRequest` for a shorter limit.
        """
        ...

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        """Compare-and-set: the job after the change, or None if the job is unknown or ``expect`` is not satisfied.

        The request of the returned job need not have its body. Raises `SlotTaken` if the change sets a slot that another
        job has, and writes nothing.
        """
        ...

    def report(self, job_id: str, token: str, report: Report) -> bool:
        """Write a report in one round trip, or return False if the job does not run with this token.

        The cost does not grow with the existing output.
        """
        ...

    def take_due(
        self,
        lessee: str,
        lease: float,
        limit: int,
        labels: frozenset[str] | None = None,
        full: frozenset[str] = frozenset(),
        *,
        queues: frozenset[str] | None = None,
    ) -> list[Job]:
        """Lease at most ``limit`` waiting jobs that are due and not leased to ``lessee``, for ``lease`` seconds.

        Waiting jobs are those without a token that have not ended. Only jobs with one of these ``labels``, of one of
        these ``queues``; None means any. A job of a queue in ``full`` is skipped unless it has a slot. The longest due
        come first (the earliest ``start_time``), and of jobs that are due at the same moment the one that was created
        first. Each has its request's body. A lease ends exactly at ``lease_until``. ``deliver_by`` and ``expires`` do not
        matter here. Of concurrent callers, one gets each job.
        """
        ...

    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        """Renew the leases of many running jobs, for ``lease`` seconds, in one write. Returns the ids that are stale.

        ``tokens`` maps job ids to tokens; an id is stale if its job does not run with that token, and nothing is written for
        it. Only the jobs in ``alive`` get an ``updated_time``. ``version`` stays. Must not wait for a connection that other
        calls may keep for long.
        """
        ...

    def find(self, query: Query) -> list[Job]:
        """The jobs that match, whose requests need no body: the one that was created last comes first.

        A clock may be set back, so the order is that of creation, not of ``created_time``. A job is overdue exactly at its
        limit: ``limit <= now``. An unknown ``before`` finds nothing, unless the query has a ``before_time``.
        """
        ...

    def count(self, query: Query) -> int:
        """How many jobs `find` would return for this query, without reading them."""
        ...

    def delete(self, job_id: str) -> bool:
        """Remove a job with its request's body and its output, whatever its status, or return False if it is unknown.

        Its merge key and its slot are free then. Every later call treats the job as unknown.
        """
        ...

    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        """Delete old jobs with one of these ``labels`` (None: any) in small batches, and return how many.

        It leaves jobs that have a ``file``: backjob deletes the file first, then the job by `delete`.

        A COMPLETED job is old if it ended more than ``completed_age`` seconds ago, and a job with any final status if it
        ended more than ``ended_age`` seconds ago: ``end_time < now - age``. An age of 0 keeps jobs forever.
        """
        ...

    def close(self) -> None:
        """Close the connections, and keep all jobs. A second call has no effect.

        Another thread may still call the store: such a call opens its own connection and closes it after use, or raises
        `StoreUnavailable`.
        """
        ...


class ReportsTogether(Protocol):
    """An optional method of a `Store`, which makes many running jobs cheaper. Without it backjob calls `Store.report` for each."""

    def report_all(self, reports: Sequence[tuple[str, str, Report]]) -> Sequence[bool]:
        """Write the reports of several jobs in one transaction. Returns what `Store.report` would return for each, in order.

        Each has a job's id, its token, and its report; no job occurs twice, and there are at most 100. A job that does not run with its token does not
        matter to the others. If it raises an error, nothing is written, except that after `StoreUnavailable` everything may be.
        """
        ...


def report_all_of(store: object) -> Callable[[Sequence[tuple[str, str, Report]]], Sequence[bool]] | None:
    """The method of `ReportsTogether` if the store has it, or None. A store in front of another has None if that lacks it."""
    found: Callable[[Sequence[tuple[str, str, Report]]], Sequence[bool]] | None = getattr(store, "report_all", None)
    return found


class Capability(Enum):
    """A capability that a store may declare missing in its attribute ``lacks``; backjob then refuses calls that need it."""

    SHARED = "shared"
    """Every process of the application sees the same jobs. Without it, the command line can't read the store."""
    RETENTION = "retention"
    """A job stays until it is purged. Without it, the store may evict jobs, so backjob refuses ``start(delay=…)``."""
    LISTING = "listing"
    """``find`` and ``purge`` see all jobs. Without it, ``find`` sees only jobs that have not ended and serves only the
    monitor's search for overdue ones; ended jobs expire by the ages of the last call of ``purge``.
    """
    SLOTS = "slots"
    """A slot belongs to one job at a time. Without it, backjob refuses ``max_running`` for a queue."""


def lacks(store: Store) -> frozenset[Capability]:
    """The capabilities that a store lacks: its attribute ``lacks``, or none."""
    found: frozenset[Capability] = getattr(store, "lacks", frozenset())
    return found


@runtime_checkable
class Files(Protocol):
    """Keeps the files that jobs make. Synchronous and callable from any thread of any process of the application.

    backjob makes up all names: both are 1 to 128 characters from ``A-Za-z0-9_-``. It never writes one file twice at once. Each method may raise `OSError` or an error
    of its own, which backjob logs.
    """

    def write(self, job_id: str, name: str, content: BinaryIO) -> None:
        """Keep the content, read to its end in chunks, as this file of the job, in place of an earlier one.

        The file is durable when the method returns. A write that raises leaves no part of it: no file, or the whole earlier
        one. backjob opens a file only after its write has returned, and deletes what a killed process has left.
        """
        ...

    def open(self, job_id: str, name: str) -> BinaryIO:
        """Open a file to read it from its beginning. Raises `FileNotFoundError` if there is none.

        An open file can be read to its end even if it is deleted meanwhile, or reading raises an error.
        """
        ...

    def delete(self, job_id: str) -> None:
        """Delete all files of the job, also incomplete ones. Without any it has no effect."""
        ...


@runtime_checkable
class Verified(Protocol):
    """A worker request whose target and headers are verified; ``check`` verifies its body."""

    @property
    def grant(self) -> Grant:
        """The right that the signature grants."""
        ...

    @property
    def request(self) -> Request:
        """The request as the developer started it, without the signer's own parameters."""
        ...

    def check(self, body: bytes) -> None:
        """Raise `SignatureError` unless this is the signed body."""
        ...


@runtime_checkable
class Signer(Protocol):
    """Signs worker requests and verifies them. Stateless and callable from any thread."""

    def sign(self, request: Request, grant: Grant) -> Request:
        """The request, signed: the signature covers method, target, body and the grant."""
        ...

    def claims(self, request: Request) -> bool:
        """Whether the request claims to be a worker request. Reads target and headers only; cheap, it runs on every request."""
        ...

    def verify(self, request: Request, now: datetime) -> Verified:
        """Verify target, headers and validity period before any body is read; raises `SignatureError`."""
        ...

    def derive(self, label: str) -> tuple[bytes, ...]:
        """32-byte keys for the purpose that the label names: from the current key first, then from the fallbacks."""
        ...


@runtime_checkable
class Delivery(Protocol):
    """One attempt to send a worker request."""

    @property
    def job_id(self) -> str: ...

    @property
    def attempt(self) -> int:
        """Which delivery of this run it is, for logs."""
        ...

    @property
    def deadline(self) -> datetime:
        """The time (UTC) after which sending is pointless."""
        ...

    reached: object | None
    """Which of several addresses to send to, for transports that resolve names.

    None: any; the transport sets it to the one that it has reached. Otherwise it is what the transport set before, when
    that address proved itself: send to it alone, since nothing else has.
    """

    def sign(self) -> Request:
        """The signed request. Call it at most once, just before the first byte is sent, from any thread.

        Raises `NotSent` if sending has become pointless.
        """
        ...


@runtime_checkable
class Transport(Protocol):
    """Sends worker requests to the application and waits for each response, however long it takes."""

    @property
    def capacity(self) -> int | None:
        """The most requests in flight at once, which the monitor respects. None: any number."""
        ...

    def send(self, delivery: Delivery) -> Future[Response]:
        """Start sending and return at once. The future gets the complete response, or `NotSent`, or `ConnectionLost`.

        The monitor's thread calls it. If a transport has the attribute ``sends_at_once`` and it is true, so do the threads that
        call ``start()``, and callbacks of earlier futures: then it must never wait, and settle no future under a lock that it needs.
        The transport sends the target byte for byte, follows no redirect, keeps no cookie, ignores proxies and netrc of
        the environment, and has no read timeout. Cancelling the future closes the connection.
        """
        ...

    def close(self) -> None:
        """Close all connections. A second call has no effect."""
        ...
