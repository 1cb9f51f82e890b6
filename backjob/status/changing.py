"""The status routes that change a job: they cancel it, delete it, or run it again."""

from __future__ import annotations

from urllib.parse import urlencode

from attrs import evolve, frozen

from backjob.errors import InvalidRequest, JobNotFound
from backjob.model import Status
from backjob.status.access import Opened
from backjob.status.exchange import StatusResponse, Visit, back_path, is_for_person, json_response, redirect
from backjob.status.origins import is_intended
from backjob.status.showing import Showing


@frozen(eq=False, repr=False)
class Changing(Showing):
    """The part of `Endpoints` that changes jobs, if the visitor may do so and meant it."""

    def cancel(self, visit: Visit, opened: Opened) -> StatusResponse:
        """Cancel the job."""
        if not opened.may_cancel():
            return self._forbidden(visit, "with this URL you may view the job, but not cancel it")
        if opened.granted not in ("cancel", "manage") and not self._is_intended(visit):
            return self.error(visit, 403, "forbidden", reason="only a page of this site may cancel the job")
        self.jobs.cancel(opened.state.id)
        if is_for_person(visit.request):
            return self._redirect_to_job(visit, opened, opened.state.id)
        state = self.shown(visit, self.jobs.status(opened.state.id))
        if state.status is Status.CANCELLED:
            return json_response(200, self.as_dict(opened, state))
        error = f"not cancelled: the job is {state.status.name}"
        return json_response(409, {"error": error, **self.as_dict(opened, state)})

    def delete(self, visit: Visit, opened: Opened) -> StatusResponse:
        """Delete the job, and cancel it first."""
        refusal = self._refusal_to_manage(visit, opened, "delete the job", "delete it")
        if refusal is not None:
            return refusal
        self.jobs.delete(opened.state.id)
        if visit.request.method == "POST" and is_for_person(visit.request):
            return self._after_delete(visit)
        return json_response(200, {"id": opened.state.id, "deleted": True})

    def after_click(self, visit: Visit, action: str, job_id: str, token: str | None) -> StatusResponse:
        """Return the response to a person's click for a job that does not exist, or that this visitor may not see.

        A second click on a button to delete it leads to where the first one does. Raises `JobNotFound`.
        """
        right = self.jobs.rights(job_id, token) if token else None
        if right is None and not self._is_logged_in(visit):
            return self.error(visit, 404, "log_in")
        if action == "delete" and (right == "manage" or (self._is_logged_in(visit) and self._is_intended(visit))):
            return self._after_delete(visit)
        raise JobNotFound(job_id)

    def _after_delete(self, visit: Visit) -> StatusResponse:
        return redirect(303, back_path(visit.request, "then") or f"{visit.mount_url()}/")

    def run_again(self, visit: Visit, opened: Opened) -> StatusResponse:
        """Run the job again, as a new one."""
        refusal = self._refusal_to_manage(visit, opened, "run the job again", "run it again")
        if refusal is not None:
            return refusal
        try:
            job_id = self.jobs.run_again(opened.state.id)
        except InvalidRequest as error:
            reason = f"not run again: {error.reason}"
            if opened.state.owner and opened.state.keeps_request and not self._is_logged_in(visit):
                return self.error(visit, 403, "log_in", reason=reason)  # the token is right, but it is no login
            return self.error(visit, 409, "not_again", reason=reason)
        if is_for_person(visit.request):
            return self._redirect_to_job(visit, opened, job_id)
        # It may have been started before, by another press of the button, and wait for its retry.
        again = evolve(opened, state=self.shown(visit, self.jobs.status(job_id)))
        location = f"{self.base_of(visit)}/{self.jobs.reference(job_id, 'view')}"
        return json_response(201, self.as_dict(again), ("Location", location))

    def _refusal_to_manage(self, visit: Visit, opened: Opened, what: str, short: str) -> StatusResponse | None:
        if not opened.may_manage():
            return self._forbidden(visit, f"with this URL you may view the job, but not {short}")
        # A token to cancel may be in other people's hands: it does not show that the owner meant to manage the job.
        if opened.granted != "manage" and not self._is_intended(visit):
            return self.error(visit, 403, "forbidden", reason=f"only a page of this site may {what}")
        return None

    def _forbidden(self, visit: Visit, reason: str) -> StatusResponse:
        return self.error(visit, 403, "forbidden" if self._is_logged_in(visit) else "log_in", reason=reason)

    def _is_logged_in(self, visit: Visit) -> bool:
        return bool(visit.visitor()) or visit.may_see_all()

    def _is_intended(self, visit: Visit) -> bool:
        return is_intended(visit.request, self.jobs.trusted_origins)

    def _redirect_to_job(self, visit: Visit, opened: Opened, job_id: str) -> StatusResponse:
        """Redirect a person to where the form was, or to the job: without a token in the address bar if it is not needed."""
        ref = job_id
        if opened.granted is not None and not (opened.is_by_owner() or visit.may_see_all()):
            ref = self.jobs.reference(job_id, opened.granted)
        then, back = back_path(visit.request, "then"), back_path(visit.request)
        query = urlencode({"back": back}) if back else ""
        return redirect(303, then) if then else redirect(303, f"{visit.mount_url()}/{ref}", query)
