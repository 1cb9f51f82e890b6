"""Jobs whose worker requests do not reach the middleware fail with an explanation."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from backjob import Status
from tests.scenarios.servers import KINDS
from tests.scenarios.sites import serving

UNREACHED: Final = (
    "answered, but the middleware did not claim the job: is it installed, or does a login page answer first?"
)


def test_without_the_middleware_a_job_fails_with_an_explanation(tmp_path: Path) -> None:
    # The middleware would learn the address and the current user: configure the one and do without the other.
    with serving(KINDS["gunicorn-threads"], "astray:without_middleware", tmp_path) as site:
        refused = site.refused("/work/none")
        assert refused["error"] == "NoCurrentRequest"
        state = site.run("/work/none", as_current_user=False)
        assert (state.status, state.status_text) == (Status.FAILED, f"200 OK: {UNREACHED}")
        assert site.run("/nowhere", as_current_user=False).status_text == f"404 Not Found: {UNREACHED}"


def test_a_login_page_before_the_middleware_fails_the_job_and_is_named_in_its_status_text(tmp_path: Path) -> None:
    ann = {"Cookie": "user=ann"}
    with serving(KINDS["waitress"], "astray:behind_a_login", tmp_path) as site:
        state = site.run("/work/none", visitor=ann, as_current_user=False)
        assert (state.status, state.status_text) == (Status.FAILED, f"302 Found → /login: {UNREACHED}")
        assert site.runs(state.id) == 0
        assert site.run("/work/none", visitor=ann).status is Status.COMPLETED
