"""What the monitor knows about one job that its process delivers."""

from __future__ import annotations

from concurrent.futures import Future

from attrs import define, field, frozen

from backjob.delivery.addresses import Destination
from backjob.model import Credentials, Job, Response


@frozen
class LastSent:
    """Where, as which attempt and when (monotonic, s) the last request for a job was sent."""

    destination: Destination
    attempt: int
    at: float


@define(eq=False)
class PendingDelivery:
    """One job that this process delivers.

    ``job`` is None in flight, to save memory: the outcome reads it again. ``send_at`` is None in flight, and while the
    job waits for nothing but room and proof. ``is_doubted``: an answer was not this application's. ``waiting_for`` is why
    the job waits, as it was written. ``due_at`` is when the job was or will be due, on the monotonic clock (s);
    ``is_whole``: the request of ``job`` has its body. An agenda entry that disagrees with ``send_at`` or ``renew_at`` is
    out of date.
    """

    job_id: str
    job: Job | None
    version: int
    credentials: Credentials | None = field(repr=False)
    held: bool
    due_at: float
    is_whole: bool = True
    failures: int = 0
    is_doubted: bool = False
    waiting_for: str | None = None
    sent: LastSent | None = None
    future: Future[Response] | None = None
    send_at: float | None = None
    renew_at: float = 0.0
