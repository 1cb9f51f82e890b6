"""The states in which a job is looked at, by a person's eyes or by a checker's."""

from __future__ import annotations

from typing import Final

from backjob import Status
from tests.browser.told import Told, ToldJob

__all__ = ["STATES", "in_state"]

STATES: Final = {
    "start": "Waiting to start",
    "running": "Exporting invoices",
    "done": "4,200 invoices exported",
    "failed": "Invoice 2,731 has no customer",
    "cancelled": "Cancelled",
}
"""What each of them says."""

_OUTPUT: Final = (
    "Reading invoices of 2026\n"
    "4,200 invoices found\n"
    "January: 350 written\n"
    "February: 362 written\n"
    "March: 341 written, 2 without a delivery address <see the log>\n"
)


def in_state(site: Told, state: str, scope: str = "Invoices 2026") -> ToldJob:
    """A job that has got so far."""
    job = site.job(scope=scope)
    if state == "start":
        return job
    job.claim()
    site.clock.advance(42)
    job.report(35, STATES["running"], _OUTPUT)
    if state == "running":
        return job
    site.clock.advance(23)
    if state == "done":
        return job.report(output="April to December: 3,147 written\n").end(
            Status.COMPLETED, STATES[state], {"href": "/export.csv"}
        )
    return job.end(Status.FAILED if state == "failed" else Status.CANCELLED, STATES[state])
