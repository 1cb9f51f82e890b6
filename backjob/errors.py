"""Every error of the package, in one tree: whose fault it is, the evidence, and what to do.

`BackJobError` is the root of what a caller may catch. `JobExit` stands apart on purpose: it ends an action from
within, so an action's own ``except Exception`` must not swallow it.
"""

from __future__ import annotations

__all__ = [
    "AddressUnknown",
    "BackJobError",
    "BackgroundOnly",
    "ConnectionLost",
    "InvalidRequest",
    "JobEnded",
    "JobExit",
    "JobFailed",
    "JobNotFound",
    "MissingExtra",
    "NoCurrentRequest",
    "NotSent",
    "SignatureError",
    "StoreError",
    "StoreUnavailable",
    "StoreUnusable",
    "TooDeep",
    "TransportError",
    "UnknownKey",
]


class BackJobError(Exception):
    """The root of everything this package raises for a caller to catch."""


# --- the caller's fault ---------------------------------------------------------------------------------------------


class InvalidRequest(BackJobError, ValueError):
    """An argument or a setting was refused. Nothing was stored and nothing was sent.

    ``argument`` is the name of the refused argument, ``reason`` says what is wrong with it and what would do.
    """

    def __init__(self, argument: str, reason: str) -> None:
        super().__init__(f"{argument}: {reason}")
        self.argument = argument
        self.reason = reason


class NoCurrentRequest(BackJobError, RuntimeError):
    """Something needs the request being served, and none is: outside of a request, or the middleware is missing."""


class JobNotFound(BackJobError, LookupError):
    """No job has this id: it never existed, or its retention time is over and it was purged."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job has the id {job_id!r}; it may have been purged")
        self.job_id = job_id


class TooDeep(BackJobError, RuntimeError):
    """A job started a job that started a job … past ``max_depth``: most likely a loop."""

    def __init__(self, depth: int) -> None:
        super().__init__(
            f"this job would be number {depth} in a chain of jobs that start jobs; if the chain is meant, raise max_depth"
        )
        self.depth = depth


# --- the configuration's fault --------------------------------------------------------------------------------------


class AddressUnknown(BackJobError, RuntimeError):
    """The application's own address is not configured, and cannot be learnt safely. Set the base URL."""


class MissingExtra(BackJobError, ImportError):
    """An optional dependency is not installed. ``extra`` is the extra that brings it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional dependency: pip install 'backjob[{extra}]'")
        self.extra = extra


# --- the sender's fault ---------------------------------------------------------------------------------------------


class SignatureError(BackJobError):
    """A request says that it is ours, and is not what was signed, or not valid now. It is answered with 403."""

    kind = "signature"


class UnknownKey(SignatureError):
    """The request names a key that is not on our ring. During a rotation it may be known to another process."""

    kind = "unknown-key"


# --- the surroundings' fault ----------------------------------------------------------------------------------------


class StoreError(BackJobError):
    """The store could not do what was asked."""


class StoreUnavailable(StoreError):
    """The store does not answer at the moment: unreachable, locked or restarting. Trying again later may help."""


class StoreUnusable(StoreError):
    """The store cannot be used as it is configured: not a database, not writable, another layout. Retrying won't help."""


class TransportError(BackJobError):
    """A worker request was not answered. ``reason`` says what happened on the way."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotSent(TransportError):
    """The request has certainly not arrived: no connection, or nothing of it was written."""


class ConnectionLost(TransportError):
    """The connection ended before a complete answer: the request may or may not have arrived, and may still run."""


# --- leaving an action ----------------------------------------------------------------------------------------------


class JobExit(BaseException):
    """Ends an action at once. The middleware catches it on every request; an action should let it pass.

    ``status`` is the HTTP status of the response that stands in for the action's own.
    """

    status = 500


class JobFailed(JobExit):
    """The action called ``fail()``. The job ends FAILED with this text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class JobEnded(JobExit):
    """The job has already ended (cancelled, timed out, or ended from outside): going on would be wasted work."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id} has already ended; what its action reports is not recorded any more")
        self.job_id = job_id


class BackgroundOnly(JobExit):
    """Somebody called, by an ordinary request, an action that only a worker request may reach."""

    status = 403
