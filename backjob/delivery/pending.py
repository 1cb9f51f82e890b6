"""What the monitor knows about one job that its process delivers."""

from __future__ import annotations

from concurrent.futures import Future

from attrs import define, field, frozen

from backjob.delivery.addresses import Destination
from backjob.model import Credentials, Job, Response


@frozen(eq=False)
class LastSent:
    """Where, as which delivery of which run, and when (monotonic, s) the last request for a job was sent."""

    destination: Destination
    run: int
    delivery: int
    at: float


@define(eq=False)
class PendingDelivery:
    """One job that this process delivers.

    ``job`` is None in flight, to save memory: the outcome reads it again. ``send_at`` is None in flight, and while the
    job waits for nothing but room and proof, since ``ready_at``. ``is_doubted``: an answer was not this application's. ``waiting_for`` is why
    the job waits, as it was written. ``due_at`` is when the job was or will be due, on the monotonic clock (s);
    ``is_whole``: the request of ``job`` has its body. An agenda entry that disagrees with ``send_at`` or ``renew_at`` is
    out of date.

    ``run`` is the run to deliver, and ``first_sent`` when (monotonic, s) its first request was sent, from which the
    delivery timeout counts; it counts anew after the job has waited for room or proof. ``tried`` is for how long (s) requests
    of this run had failed before that, and ``failures`` how many have. ``refusals`` counts the last answers in a row of busy
    processes. ``is_claimed``: the run was claimed, and this process keeps the credentials for the next one.
    """

    job_id: str
    job: Job | None
    version: int
    credentials: Credentials | None = field(repr=False)
    held: bool
    due_at: float
    run: int = 1
    is_whole: bool = True
    tried: float = 0.0
    failures: int = 0
    refusals: int = 0
    is_doubted: bool = False
    is_claimed: bool = False
    waiting_for: str | None = None
    first_sent: float | None = None
    sent: LastSent | None = None
    future: Future[Response] | None = None
    send_at: float | None = None
    ready_at: float = 0.0
    renew_at: float = 0.0

    def begin(self, job: Job) -> None:
        """Deliver the run that the job waits for; forget the deliveries of earlier ones."""
        self.job, self.version, self.run, self.is_whole = job, job.version, job.run, False
        self.future = self.sent = self.first_sent = self.send_at = None
        self.tried = 0.0
        self.failures = self.refusals = 0
        self.is_doubted = self.is_claimed = False
        self.waiting_for = None

    def next_number(self, job: Job) -> int:
        """Return the number of the next delivery of this run: no two requests of this process are equal."""
        if self.sent is None or self.sent.run != job.run:
            return job.delivery
        return max(self.sent.delivery, job.delivery) + 1
