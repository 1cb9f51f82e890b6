"""The contracts between the parts. `typing.Protocol` throughout: match the shape, there is nothing to subclass.

`backjob.testing` has a suite for each of Store, Transport and Signer that shows whether an implementation keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from datetime import datetime
from enum import Enum
from typing import Protocol, runtime_checkable

from backjob.model import (
    Caller,
    Changes,
    Credentials,
    Draft,
    Expect,
    Grant,
    Job,
    JobState,
    Output,
    Query,
    Report,
    Request,
    Response,
)

__all__ = [
    "Caller",
    "Capability",
    "Changes",
    "Clock",
    "Credentials",
    "Delivery",
    "Draft",
    "Expect",
    "Grant",
    "Job",
    "JobState",
    "Output",
    "Query",
    "Report",
    "Request",
    "Response",
    "Signer",
    "Store",
    "Transport",
    "Verified",
    "lacks",
]


@runtime_checkable
class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> datetime:
        """The present, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards; only differences mean anything."""
        ...


@runtime_checkable
class Store(Protocol):
    """Keeps jobs. Synchronous, callable from any thread, and without a state machine of its own.

    Every write is one atomic step that is durable when the method returns. Times are the store's own clock. All
    methods raise `StoreUnavailable` when the store cannot be reached for now, and have then changed nothing that a
    later read would not show.
    """

    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        """Write a new job with its first lease. With a key that a job holds already: write nothing, return that job."""
        ...

    def get(self, job_id: str) -> Job | None:
        """The job as it stands, without its output, or None."""
        ...

    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        """At most ``limit`` bytes (4 or more) of output from byte ``offset``, never splitting a character.

        An offset at or past the end gives an empty piece that ends there; an offset inside a character begins at the
        next one; an unknown job has no output. ``truncated`` is the job's, whatever the piece.
        """
        ...

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        """Compare-and-set: the job after the change, or None if the job is unknown or ``expect`` did not hold."""
        ...

    def report(self, job_id: str, token: str, report: Report) -> bool:
        """Write a report in one round trip, fenced: False, and nothing written, unless the job is IN_PROGRESS under this
        token.

        Its cost does not grow with the output that stands already.
        """
        ...

    def take_due(self, lessee: str, lease: float, limit: int) -> list[Job]:
        """Lease to ``lessee``, for ``lease`` seconds, STARTED jobs that are due and not leased; the longest due first.

        A lease is over at its exact end. Of several callers at once, each job goes to one.
        """
        ...

    def beat(self, tokens: Mapping[str, str]) -> None:
        """A sign of life for many running jobs in one write: job id → token. Stale tokens change nothing."""
        ...

    def find(self, query: Query) -> list[Job]:
        """The jobs that match, newest first. An unknown ``before`` finds nothing."""
        ...

    def purge(self, completed_age: float, ended_age: float) -> int:
        """Remove COMPLETED jobs that ended more than ``completed_age`` seconds ago, and jobs with any final status past
        ``ended_age``; 0 keeps for ever. Returns how many. Works in batches, so nobody waits for long.
        """
        ...

    def close(self) -> None:
        """Let go of connections. Calling it twice does no harm."""
        ...


class Capability(Enum):
    """What a store may lack, and says so in an attribute ``lacks``; what would need it is refused, with the reason."""

    SHARED = "shared"
    """Every process of the application sees the same jobs. Without: the command line can't look into the store."""
    RETENTION = "retention"
    """A job stays until it is purged. Without, the store may drop jobs to make room: ``start(delay=…)`` is refused."""
    LISTING = "listing"
    """``find`` and ``purge`` know all jobs. Without, ``find`` knows only those that have not ended, and is kept for
    the monitor's own search for silent ones; ended jobs go by themselves, by the ages that ``purge`` was last given.
    """


def lacks(store: Store) -> frozenset[Capability]:
    """What a store lacks: its attribute of this name, or nothing."""
    found: frozenset[Capability] = getattr(store, "lacks", frozenset())
    return found


@runtime_checkable
class Verified(Protocol):
    """A worker request whose target and headers are proven; its body is not, until ``check`` has seen it."""

    @property
    def grant(self) -> Grant:
        """What the signature grants."""
        ...

    @property
    def request(self) -> Request:
        """The request without the signer's own parameters: what the developer asked for."""
        ...

    def check(self, body: bytes) -> None:
        """Raise `SignatureError` unless this is the signed body."""
        ...


@runtime_checkable
class Signer(Protocol):
    """Makes a request provably ours, and proves it. Stateless and callable from any thread."""

    def sign(self, request: Request, grant: Grant) -> Request:
        """The request with a signature over its method, target and body, and over the grant."""
        ...

    def claims(self, request: Request) -> bool:
        """Whether the request says that it is ours; from target and headers only, and cheap: every request is asked."""
        ...

    def verify(self, request: Request, now: datetime) -> Verified:
        """Prove target, headers and validity before any body is read, or raise `SignatureError`."""
        ...

    def derive(self, label: str) -> tuple[bytes, ...]:
        """32-byte keys for another purpose, named by the label: the current one first, then the fallbacks'."""
        ...


@runtime_checkable
class Delivery(Protocol):
    """One attempt at sending one worker request."""

    @property
    def job_id(self) -> str: ...

    @property
    def attempt(self) -> int: ...

    @property
    def deadline(self) -> datetime:
        """After this there is no point in sending any more (UTC)."""
        ...

    def sign(self) -> Request:
        """The signed request. Call it when bytes are about to leave, at most once, from any thread.

        Raises `NotSent` if there is no point any more.
        """
        ...


@runtime_checkable
class Transport(Protocol):
    """Sends worker requests to the application, and waits for their answers as long as they take."""

    @property
    def capacity(self) -> int | None:
        """How many may be in flight at once; the monitor keeps to it. None: any number."""
        ...

    def send(self, delivery: Delivery) -> Future[Response]:
        """Begin to send; returns at once. The future ends with the complete response, or `NotSent`, or `ConnectionLost`.

        The target goes out byte for byte; no redirect is followed, no cookie kept, no proxy or netrc taken from the
        environment; there is no read time-out. Cancelling the future closes the connection.
        """
        ...

    def close(self) -> None:
        """Close what is open. Calling it twice does no harm."""
        ...
