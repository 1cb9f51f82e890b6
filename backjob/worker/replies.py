"""Worker requests whose signature is valid, and the responses of the middleware itself."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, Final

from attrs import frozen

from backjob.errors import BackJobError
from backjob.http.worker_requests import hide_signature, pass_on, show_job
from backjob.lifecycle import REFUSAL_HEADER
from backjob.model import Headers, Request, Response
from backjob.protocols import Verified

CONCURRENCY_HEADER: Final = "backjob-concurrency"
"""In a refusal: ``one`` if the server declares that it serves one request at a time, else ``many``. The doctor reads it."""


class Reply(BackJobError):
    """The response to a worker request for which no action runs. The adapter sends it after ``hold`` seconds."""

    def __init__(self, status: int, reason: str, text: str, headers: Headers = (), hold: float = 0.0) -> None:
        super().__init__(text)
        self.hold = hold
        self.status = status
        self.reason = reason
        self.headers: Headers = (*no_store(), *headers)

    @property
    def response(self) -> Response:
        """The response to send."""
        return Response(self.status, self.reason, self.headers, str(self).encode())


class Refusal(Reply):
    """The response to a worker request that must not run. ``kind`` is the reason in one word, for the monitor."""

    def __init__(self, status: int, reason: str, kind: str, text: str, mark: Headers = ()) -> None:
        super().__init__(status, reason, text, ((REFUSAL_HEADER, kind), *mark))
        self.kind = kind


@frozen(eq=False, repr=False)
class WorkerRequest:
    """A worker request with a valid signature. Read ``length`` bytes of body, and pass both to the claim.

    Each response to it has the fields ``mark``, which prove that this application gave it.
    """

    verified: Verified
    length: int
    mark: Headers = ()

    @property
    def request(self) -> Request:
        """The request that the action gets, without the signature."""
        return self.verified.request


def show_outside(found: WorkerRequest | Reply | None, *requests: MutableMapping[str, Any]) -> None:
    """Show what a request is to the parts around the middleware, in its environ or scope, without its signature.

    A verified worker request, or probe, gets the key `JOB_KEY`. None is an ordinary request, which stays as it arrived.
    """
    for request in requests:
        if found is None:
            pass_on(request)
            continue
        hide_signature(request)
        if isinstance(found, WorkerRequest):
            show_job(request, found.verified.grant.job_id)
        elif not isinstance(found, Refusal):
            show_job(request, "")


def no_store() -> Headers:
    """Return the header fields of each response that backjob sends instead of the action's."""
    return (
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    )
