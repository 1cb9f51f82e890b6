"""A job as a visitor sees it: unexpected errors are hidden, and it has the links that this visitor may use."""

from __future__ import annotations

from attrs import frozen

from backjob.model import JobState, JsonValue
from backjob.status.access import Opened
from backjob.status.exchange import StatusResponse, Visit, back_path, is_asked
from backjob.status.explaining import explained, language_of
from backjob.status.hiding import has_hidden_errors, without_errors
from backjob.status.links import JobLinks
from backjob.status.listing import with_links
from backjob.status.source import StatusSource


@frozen(eq=False, repr=False)
class Showing:
    """The part of `Endpoints` that all routes share."""

    jobs: StatusSource

    def shown(self, visit: Visit, state: JobState) -> JobState:
        """Return the state as this visitor may see it: unexpected errors are for staff."""
        if not has_hidden_errors(state) or self.jobs.show_errors or visit.may_see_all():
            return state
        return without_errors(state)

    def base_of(self, visit: Visit) -> str:
        """Return the beginning of the links: a path, or a URL if the request asks for that."""
        if not is_asked(visit.request, "absolute"):
            return visit.mount_url()
        return self.jobs.public_mount() or f"{visit.origin}{visit.mount_url()}"

    def links_of(self, opened: Opened, base: str) -> JobLinks:
        """Return the links to a job that this visitor may use."""
        job_id, events = opened.state.id, self.jobs.broadcast.limit(in_thread=opened.visit.in_thread) > 0
        may_run_again = opened.may_run_again(self.jobs)
        return JobLinks(base, lambda right: self.jobs.reference(job_id, right), opened.right, events, may_run_again)

    def as_dict(self, opened: Opened, state: JobState | None = None) -> dict[str, JsonValue]:
        """Return the state with the links of this visitor."""
        return with_links(state or opened.state, self.links_of(opened, self.base_of(opened.visit)))

    def error(self, visit: Visit, status: int, word: str, *more: tuple[str, str], reason: str = "") -> StatusResponse:
        """Return an error as a page that leads back, or as JSON."""
        accept, language = visit.request.header("accept"), language_of(visit)
        assets = visit.mount_url()
        back = back_path(visit.request) or back_path(visit.request, "then") or ""
        return explained(status, word, accept, language, *more, assets=assets, back=back, reason=reason)
