"""The signal that backjob sends when a job has ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from attrs import evolve
from django.dispatch import Signal

from backjob.errors import JobExit, StoreError
from backjob.model import Job, JobState

__all__ = ["job_ended", "send_job_ended", "set_on_end"]

job_ended: Final = Signal()
"""Sent once for each job, by the process that wrote its end. ``state`` is the job's `JobState`, ``job`` the stored job.

An exception from a receiver is logged; the job stays as it is.
"""

_log = logging.getLogger("backjob")


def send_job_ended(sender: object, job: Job, state_of: Callable[[Job], JobState]) -> None:
    """Send `job_ended` if anything is connected to it."""
    if not job_ended.has_listeners(sender):
        return
    try:
        try:
            state = state_of(job)
        except StoreError:  # its output can't be read now, and the signal is sent only once
            state = state_of(evolve(job, output_size=0))
        job_ended.send_robust(sender, job=job, state=state)
    except (Exception, JobExit):
        _log.exception("a receiver of job_ended failed for job %s", job.id)


def set_on_end(on_end: Callable[[JobState], object] | None) -> None:
    """Connect the function that the setting ``ON_END`` names, in place of an earlier one."""
    job_ended.disconnect(dispatch_uid="backjob ON_END")
    if on_end is not None:

        def receive(state: JobState, **_options: Any) -> None:
            on_end(state)

        job_ended.connect(receive, weak=False, dispatch_uid="backjob ON_END")
