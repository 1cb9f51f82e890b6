"""The list of jobs, running again and deleting on real servers."""

from __future__ import annotations

import re
from typing import Any

from backjob import Status
from tests.scenarios.sites import Site

LIA = {"Cookie": "user=lia"}
BOB = {"Cookie": "user=bob"}
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}
HTML = {"Accept": "text/html"}


def test_a_user_starts_a_job_once_finds_it_runs_it_again_and_deletes_it(site: Site) -> None:
    # One press, and the same one again.
    options: dict[str, Any] = {"title": "Invoices & more", "key": "invoices-2026", "keep_request": True, "visitor": LIA}
    job_id = site.start("/work/fail", **options)
    assert site.start("/work/fail", **options) == job_id
    assert site.end(job_id).status is Status.FAILED
    assert site.start("/work/fail", **options) == job_id
    assert site.runs(job_id) <= 1

    # The list, without the slash too. (In Django, CommonMiddleware redirects unless another route matches, as it does here.)
    if "django" not in site.app:
        assert site.page("/backjob", headers=LIA).status == 307
    listed = site.page("/backjob/", {"q": "INVOICES", "status": "failed"}, headers=LIA).json()
    assert ([job["id"] for job in listed["jobs"]], listed["next"]) == ([job_id], None)
    assert site.page("/backjob/", {"q": "invoices"}, headers=BOB).json()["jobs"] == []
    assert site.page("/backjob/").json()["jobs"] == []
    links = listed["jobs"][0]["links"]
    assert site.page(links["self"]).json()["title"] == "Invoices & more"
    page = site.page("/backjob/", headers=LIA | HTML).text
    assert "Invoices &amp; more</a>" in page

    # Run again by the form, as a browser that states nothing sends it.
    again = re.findall(r'action="([^"]*/run_again[^"]*)"', page)[0]
    assert site.client.request("POST", f"/backjob/{job_id}/run_again", headers=LIA, body=b"").status == 403
    assert "Log in" in site.client.request("POST", again, headers=HTML, body=b"").text
    redirect = site.client.request("POST", again, headers=LIA | HTML, body=b"")
    assert redirect.status == 303
    new_id = redirect.headers["location"].partition("?")[0].rpartition("/")[2]
    assert site.end(new_id).status is Status.FAILED
    assert (site.jobs.status(new_id).owner, site.jobs.status(new_id).title) == ("lia", "Invoices & more")

    # Delete both, and the key is free.
    for one in (job_id, new_id):
        assert site.client.request("DELETE", f"/backjob/{one}", headers=BOB | SAME_ORIGIN).status == 404
        assert site.client.request("DELETE", f"/backjob/{one}", headers=LIA).status == 403
        assert site.client.request("DELETE", f"/backjob/{one}", headers=LIA | SAME_ORIGIN).json()["deleted"]
    assert site.page("/backjob/", headers=LIA).json() == {"jobs": [], "next": None}
    assert site.start("/work/fail", **options) != job_id
