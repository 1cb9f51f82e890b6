"""Jobs in every state, for pictures and for accessibility checks."""

from __future__ import annotations

from typing import Final

from backjob import Status
from tests.browser.scripted import ScriptedJob, ScriptedSite

__all__ = ["STATES", "in_state"]

STATES: Final = {
    "start": "Waiting to start",
    "running": "Exporting invoices",
    "done": "4,200 invoices exported",
    "failed": "Invoice 2,731 has no customer",
    "cancelled": "Cancelled",
}
"""The text that the element shows in each state."""

_OUTPUT: Final = (
    "Reading invoices of 2026\n"
    "4,200 invoices found\n"
    "January: 350 written\n"
    "February: 362 written\n"
    "March: 341 written, 2 without a delivery address <see the log>\n"
)


def in_state(site: ScriptedSite, state: str, scope: str = "Invoices 2026") -> ScriptedJob:
    """A job in this state."""
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
