"""The links in a job's JSON: URLs with tokens for exactly the rights of the visitor who asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from attrs import frozen

from backjob.model import JobState, JsonValue

Right: TypeAlias = Literal["view", "cancel", "manage"]
"""To view; also to cancel; also to run again and delete."""


@frozen(eq=False, repr=False)
class Linked:
    """What the links of a job depend on."""

    has_ended: bool
    has_file: bool
    can_run_again: bool

    @classmethod
    def of(cls, state: JobState) -> Linked:
        return cls(state.status.is_final, state.file is not None, state.status.is_final and state.keeps_request)


@frozen(eq=False, repr=False)
class JobLinks:
    """The URLs of one job for one visitor.

    ``base`` is the URL, or the path, of the status routes. ``reference(right)`` is the id with the token for a right.
    ``events``: this process serves event streams. ``may_run_again``: this visitor may, once the job has ended.
    """

    base: str
    reference: Callable[[Right], str]
    right: Right = "view"
    events: bool = False
    may_run_again: bool = False

    def as_dict(self, job: Linked) -> dict[str, JsonValue]:
        """Return the links, JSON-ready; None for what this visitor may not do, or what there is not now."""
        view = self._url("view")
        may_cancel = self.right != "view" and not job.has_ended
        return {
            "self": view,
            # With the visitor's own rights, because an EventSource sends no header fields: the stream's states have links too.
            "events": f"{self._url(self.right)}/events" if self.events else None,
            "output": f"{view}/output",
            "file": f"{view}/file" if job.has_file else None,
            "cancel": f"{self._url('cancel')}/cancel" if may_cancel else None,
            "run_again": f"{self._url('manage')}/run_again" if self.may_run_again and job.can_run_again else None,
        }

    def form(self, right: Right, action: str) -> str:
        """Return the target of a form that needs this right."""
        return f"{self._url(right)}/{action}"

    def _url(self, right: Right) -> str:
        return f"{self.base}/{self.reference(right)}"
