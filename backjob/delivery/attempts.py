"""One attempt at a delivery: its credentials, its signature, and its outcome."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime

from attrs import define, evolve, field

from backjob.errors import BackJobError, NotSent
from backjob.lifecycle import status_line
from backjob.model import Credentials, Grant, Job, Request, Response
from backjob.protocols import Clock, Signer


class Undeliverable(BackJobError):
    """The job must not be sent, or not without credentials that are lost. Its message becomes the job's status text."""


def credentials_of(
    job: Job, kept: Credentials | None, unseal: Callable[[Job], Credentials | None]
) -> Credentials | None:
    """Return the credentials to send with a job: those that this process kept, else the sealed ones.

    Raises `Undeliverable` if the job needs credentials and there are none.
    """
    if kept is None and job.sealed is not None:
        kept = unseal(job)
        if kept is None:
            raise Undeliverable(
                "no key opens the sealed credentials of this job: the signer's keys have changed, or the stored row has; start it again"
            )
    if kept is None and job.held:
        raise Undeliverable(
            "the process that held the user's credentials for this job ended before it was delivered; "
            "start it again, or have credentials stored sealed: BackJob(seal=True)"
        )
    return kept


@define(eq=False)
class Attempt:
    """A `backjob.protocols.Delivery` that signs once, and only before its deadline. ``attempt`` counts those of its run."""

    job_id: str
    run: int
    attempt: int
    deadline: datetime
    _request: Request | None = field(repr=False)
    _signer: Signer
    _clock: Clock
    reached: object | None = None

    def sign(self) -> Request:
        request, self._request = self._request, None
        created = int(self._clock.now().timestamp())
        expires = int(self.deadline.timestamp())
        if request is None or created >= expires:
            raise NotSent("the time for delivering this job is over")
        return signed_below_mount(self._signer, request, Grant(self.job_id, self.run, self.attempt, created, expires))


def signed_below_mount(signer: Signer, request: Request, grant: Grant) -> Request:
    """Sign the path that the application routes, and put the mount back in front of it.

    The request still names its mount, for a transport without a server that would move it to SCRIPT_NAME or root_path.
    """
    if not request.mount:
        return signer.sign(request, grant)
    below = request.target.removeprefix(request.mount)
    added = "" if below.startswith("/") else "/"
    signed = signer.sign(evolve(request, target=added + below, mount=""), grant)
    return evolve(signed, target=request.mount + signed.target.removeprefix(added), mount=request.mount)


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
