"""All exceptions of the package. Each says whose fault it is, with the evidence, and what to do.

`BackJobError` is the base class of everything that a caller may catch. `JobExit` is not derived from it, nor from
`Exception`: it ends an action, so an action's ``except Exception`` must not catch it.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "AddressUnknown",
    "BackJobError",
    "BackgroundOnly",
    "CommandFailed",
    "ConnectionLost",
    "DeliveryRefused",
    "InvalidRequest",
    "JobContinued",
    "JobEnded",
    "JobExit",
    "JobFailed",
    "JobNotFound",
    "JobRetried",
    "MissingExtra",
    "NoCurrentRequest",
    "NotSent",
    "SignatureError",
    "SlotTaken",
    "StoreError",
    "StoreUnavailable",
    "StoreUnusable",
    "TooDeep",
    "TooManyJobs",
    "TransportError",
    "UnknownKey",
]


class BackJobError(Exception):
    """The base class of everything that this package raises for a caller to catch."""


# --- the caller's fault ---------------------------------------------------------------------------------------------


class InvalidRequest(BackJobError, ValueError):
    """An argument or a setting is invalid. Nothing was stored and nothing was sent.

    ``argument`` is its name; ``reason`` says what is wrong with it and what is allowed.
    """

    def __init__(self, argument: str, reason: str) -> None:
        super().__init__(f"{argument}: {reason}")
        self.argument = argument
        self.reason = reason


class NoCurrentRequest(BackJobError, RuntimeError):
    """A call needs the request being served, but there is none: it was made outside of a request, or without the middleware."""


class JobNotFound(BackJobError, LookupError):
    """No job has this id: it never existed, or it was purged after its retention time."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job has the id {job_id!r}; it never existed or was purged")
        self.job_id = job_id


class DeliveryRefused(BackJobError, RuntimeError):
    """`BackJob.deliver` can't deliver this job now, and has sent nothing; ``"leaving"`` may also come between two runs.

    ``reason`` is one word: ``"ended"``, ``"running"`` or ``"leased"`` (another process has it, so that ``is_duplicate`` is
    true), ``"credentials"`` (only the process that started it can send it), or ``"leaving"`` (this process shuts down).
    """

    def __init__(self, job_id: str, reason: str, text: str) -> None:
        super().__init__(f"job {job_id} is not delivered here: {text}")
        self.job_id = job_id
        self.reason = reason
        self.is_duplicate = reason in ("ended", "running", "leased")


class TooDeep(BackJobError, RuntimeError):
    """A chain of jobs that start jobs is longer than ``max_depth``: most likely a loop."""

    def __init__(self, depth: int) -> None:
        super().__init__(
            f"this job would be number {depth} in a chain of jobs that start jobs; if that is intended, increase MAX_DEPTH"
        )
        self.depth = depth


class TooManyJobs(BackJobError, RuntimeError):
    """A job, and all that it started directly or indirectly, are as many as ``max_chain`` allows: most likely a loop."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"the first job of this chain has led to {limit} jobs, as many as MAX_CHAIN allows; if that is intended, "
            "increase that setting"
        )
        self.limit = limit


class CommandFailed(BackJobError, RuntimeError):
    """A program that ``run_command`` ran has failed, could not be started, or was ended.

    ``returncode`` is its exit status, negative for a signal; None if it has none. ``last_lines`` is the end of its output.
    """

    def __init__(self, name: str, returncode: int | None, last_lines: str = "", reason: str = "") -> None:
        if not reason:
            status = returncode or 0
            reason = f"ended with status {status}" if status >= 0 else f"was ended by signal {-status}"
        super().__init__(f"{name} {reason}" + (f":\n{last_lines}" if last_lines else ""))
        self.returncode = returncode
        self.last_lines = last_lines


# --- the configuration's fault --------------------------------------------------------------------------------------


class AddressUnknown(BackJobError, RuntimeError):
    """The application's address is not configured, and can't be learnt safely: set the base URL."""


class MissingExtra(BackJobError, ImportError):
    """An optional dependency is not installed. ``extra`` is the name of the extra that installs it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional dependency: pip install 'backjob[{extra}]'")
        self.extra = extra


# --- the sender's fault ---------------------------------------------------------------------------------------------


UNTIMELY: Final = "clock"
"""The ``kind`` of a `SignatureError` because of the time: if a clock was set meanwhile, a new signature will be valid."""


class SignatureError(BackJobError):
    """A worker request does not match its signature, or its signature is not valid now. The middleware answers 403."""

    kind = "signature"


class UnknownKey(SignatureError):
    """The worker request was signed with an unknown key. During a key rotation, another process may know it."""

    kind = "unknown-key"


# --- the environment's fault ----------------------------------------------------------------------------------------


class StoreError(BackJobError):
    """The store failed."""


class StoreUnavailable(StoreError):
    """The store does not respond now: it is unreachable, locked or restarting. Retrying later may help."""


class StoreUnusable(StoreError):
    """The store can't be used as configured: not a database, not writable, another layout. Retrying does not help."""


class SlotTaken(BackJobError):
    """Another job of the queue has this slot. `backjob.protocols.Store.change` raises it, and has written nothing."""

    def __init__(self, slot: str) -> None:
        super().__init__(f"another job has the slot {slot!r}")
        self.slot = slot


class TransportError(BackJobError):
    """A worker request got no response. ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotSent(TransportError):
    """The worker request has certainly not arrived: there was no connection, or no byte was written."""


class ConnectionLost(TransportError):
    """The connection ended before a complete response: the request may have arrived, and its action may still run."""


# --- leaving an action ----------------------------------------------------------------------------------------------


class JobExit(BaseException):
    """Ends an action now. The middleware catches it on every request; an action should let it propagate.

    ``status`` is the HTTP status of the response.
    """

    status = 500


class JobFailed(JobExit):
    """The action called ``fail()``. The job ends FAILED with this text.

    ``unexpected``: the text is that of an exception, which not every visitor may see.
    """

    def __init__(self, text: str, *, unexpected: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.unexpected = unexpected


class JobRetried(JobExit):
    """The action called ``retry()``. Another run follows after ``delay`` seconds (None: the usual), if any is left."""

    status = 503

    def __init__(self, text: str, delay: float | None) -> None:
        super().__init__(text)
        self.text = text
        self.delay = delay


class JobContinued(JobExit):
    """The action called ``continue_later()``, or its time was up: another request continues the job."""

    status = 202

    def __init__(self) -> None:
        super().__init__("another request continues this job")


class JobEnded(JobExit):
    """The job has already ended: cancelled, timed out, or ended from outside. Continuing would be wasted work."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id} has already ended; further reports of its action are not recorded")
        self.job_id = job_id


class BackgroundOnly(JobExit):
    """An ordinary request reached an action that only a worker request may run."""

    status = 403
