"""Jobs whose worker requests do not reach the middleware wait: nothing is sent, and the reason is in the log."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from backjob import Status
from tests.scenarios.client import WAIT
from tests.scenarios.servers import KINDS
from tests.scenarios.sites import Site, serving

UNREACHED: Final = (
    "not by this application's middleware; is it installed, or does a login page or another site answer first?"
)


def wait_for_warning(site: Site, reason: str) -> None:
    """Wait until the log has the reason, in one warning."""
    site.server.wait_for_log(reason, WAIT)
    assert site.server.tail().count("jobs wait until this application answers a probe") == 1


def test_without_the_middleware_a_job_waits_and_a_warning_explains_why(tmp_path: Path) -> None:
    # The middleware would learn the address and the current user: configure the one and do without the other.
    with serving(KINDS["gunicorn-threads"], "astray:without_middleware", tmp_path) as site:
        refused = site.refused("/work/none")
        assert refused["error"] == "NoCurrentRequest"
        job_id = site.start("/work/none", as_current_user=False)
        wait_for_warning(site, f"404 Not Found: {UNREACHED}")
        state = site.until(job_id, lambda state: state.waiting_for == "proof")
        assert (state.status, site.runs(job_id)) == (Status.STARTED, 0)
        assert site.jobs.cancel(job_id)


def test_behind_a_login_page_a_job_waits_and_a_warning_names_that_page(tmp_path: Path) -> None:
    ann = {"Cookie": "user=ann"}
    with serving(KINDS["waitress"], "astray:behind_a_login", tmp_path) as site:
        job_id = site.start("/work/none", visitor=ann)
        wait_for_warning(site, f"302 Found → /login: {UNREACHED}")
        state = site.until(job_id, lambda state: state.waiting_for == "proof")
        assert (state.status, site.runs(job_id)) == (Status.STARTED, 0)
        page = site.page(site.jobs.status_url(job_id), headers=ann | {"Accept": "text/html"})
        assert "no answer from this application at its address yet" in page.text
