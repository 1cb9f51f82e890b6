"""One attempt at a delivery as the transport sees it, and what its future says afterwards."""

from __future__ import annotations

from concurrent.futures import Future
from datetime import datetime

from attrs import define, field

from backjob.errors import NotSent
from backjob.lifecycle import status_line
from backjob.model import Grant, Request, Response
from backjob.protocols import Clock, Signer

__all__ = ["Attempt", "describe", "failure"]


@define(eq=False)
class Attempt:
    """A `backjob.protocols.Delivery` that signs once, and only before its deadline."""

    job_id: str
    attempt: int
    deadline: datetime
    _request: Request | None = field(repr=False)
    _signer: Signer
    _clock: Clock

    def sign(self) -> Request:
        request, self._request = self._request, None
        created = int(self._clock.now().timestamp())
        expires = int(self.deadline.timestamp())
        if request is None or created >= expires:
            raise NotSent("the time for delivering this job is over")
        return self._signer.sign(request, Grant(self.job_id, self.attempt, created, expires))


def failure(future: Future[Response]) -> BaseException | None:
    """Return why there is no answer, or None if there is one."""
    return NotSent("the transport cancelled it") if future.cancelled() else future.exception()


def describe(future: Future[Response]) -> str:
    """Return the outcome in words: the error's, or the status line."""
    error = failure(future)
    if error is not None:
        return str(error) or type(error).__name__
    response = future.result()
    return status_line(response.status, response.reason)
