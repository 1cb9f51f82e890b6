"""Who may do what with a job: its owner, the holder of a token, or a user who may see or manage the jobs of everyone.

The id alone is not enough. Visitors who may not see a job get the same response as for a job that does not exist.
"""

from __future__ import annotations

import re
from typing import Final

from attrs import frozen

from backjob.errors import JobNotFound
from backjob.model import JobState
from backjob.status.exchange import Visit
from backjob.status.links import Right
from backjob.status.source import StatusSource

_LIKE_TOKEN: Final = re.compile(r"[vcm][A-Za-z0-9_-]{22}")


class SignedElsewhere(JobNotFound):
    """The token has the form of ours, but none of our keys made it. That says nothing about the job."""


def is_like_token(token: str) -> bool:
    """Whether a text has the form of a token in a status URL, whichever key signed it."""
    return _LIKE_TOKEN.fullmatch(token) is not None


@frozen(eq=False, repr=False)
class Opened:
    """A job that this visitor may see. ``ref`` is the id, with the token if the URL has one; ``granted`` is the right of that token."""

    ref: str
    state: JobState
    granted: Right | None
    visit: Visit

    def is_by_owner(self) -> bool:
        """Whether the owner asks."""
        return self.visit.owns(self.state.owner)

    def may_manage(self) -> bool:
        """Whether this visitor may delete the job and run it again."""
        return self.granted == "manage" or self.is_by_owner() or self.visit.may_manage_all()

    def may_cancel(self) -> bool:
        """Whether this visitor may cancel the job."""
        return self.granted == "cancel" or self.may_manage()

    def may_run_again(self, jobs: StatusSource) -> bool:
        """Whether this visitor may run the job again, which is kept for that.

        A token to manage is enough to try: its holder may be the owner, and otherwise reads that a login is needed.
        """
        if not (self.state.keeps_request and self.may_manage()):
            return False
        return self.granted == "manage" or self.is_by_owner() or jobs.runs_without_owner(self.state.id)

    @property
    def right(self) -> Right:
        """The most that this visitor may do."""
        return "manage" if self.may_manage() else "cancel" if self.may_cancel() else "view"


def opened(jobs: StatusSource, visit: Visit, ref: str, job_id: str, token: str | None) -> Opened:
    """Return the job if this visitor may see it; otherwise raise `JobNotFound`, whether the job exists or not."""
    right = jobs.rights(job_id, token) if token else None
    if right is not None:
        return Opened(ref, jobs.status(job_id), right, visit)
    sees_all = visit.may_see_all()
    if not (visit.visitor() or sees_all):
        raise SignedElsewhere(job_id) if token and is_like_token(token) else JobNotFound(job_id)
    state = jobs.status(job_id)
    if not (visit.owns(state.owner) or sees_all):
        raise JobNotFound(job_id)
    return Opened(job_id, state, None, visit)
