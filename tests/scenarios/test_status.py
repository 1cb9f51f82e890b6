"""The status routes on real servers."""

from __future__ import annotations

import pytest

from backjob import Status
from tests.scenarios.sites import Site

ANN = {"Cookie": "user=ann"}
HTML = {"Accept": "text/html"}


@pytest.mark.every_server
def test_the_status_url_returns_the_state_as_json(site: Site) -> None:
    started = site.started("/work/finish")
    site.end(started["id"])
    page = site.page(started["url"])
    assert (page.status, page.headers["content-type"]) == (200, "application/json")
    assert page.headers["cache-control"] == "no-store"
    state = page.json()
    assert (state["id"], state["status"], state["status_name"]) == (started["id"], int(Status.COMPLETED), "COMPLETED")
    assert (state["progress"], state["status_text"]) == (100, "And done")
    assert state["result"]["href"] == "/export.csv"


def test_a_browser_gets_a_page_with_escaped_output(site: Site) -> None:
    started = site.started("/work/print", {"lines": 2})
    job_id = site.steps(["echo", "<script>alert(1)</script>"]).id
    site.end(started["id"])
    page = site.page(started["url"], headers=HTML)
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "line 1 – ä" in page.text
    escaped = site.page(f"/backjob/{site.jobs.status_url(job_id).rpartition('/')[2]}", headers=HTML)
    assert "<script>alert" not in escaped.text
    assert "&lt;script&gt;alert(1)" in escaped.text
    assert site.page("/backjob/progress.js").headers["content-type"] == "text/javascript; charset=utf-8"


def test_the_output_can_be_read_from_an_offset(site: Site) -> None:
    started = site.started("/work/print", {"lines": 2})
    site.end(started["id"])
    whole = site.page(f"{started['url']}/output").json()
    assert whole == {"text": "line 0 – ä\nline 1 – ä\n", "next_offset": 28, "truncated": False, "tail": ""}
    rest = site.page(f"{started['url']}/output", {"offset": 14}).json()
    assert rest == {"text": "line 1 – ä\n", "next_offset": 28, "truncated": False, "tail": ""}
    assert site.page(f"{started['url']}/output", {"offset": 28}).json()["text"] == ""


def test_without_a_token_only_the_owner_can_read_a_job(site: Site) -> None:
    job_id = site.run("/work/none", visitor=ANN).id
    unknown = site.page("/backjob/unknown")
    for visitor in ({}, {"Cookie": "user=bob"}):
        refused = site.page(f"/backjob/{job_id}", headers=visitor)
        assert (refused.status, refused.body) == (404, unknown.body)
    assert site.page(f"/backjob/{job_id}", headers=ANN).json()["owner"] == "ann"
    view = site.jobs.status_url(job_id)
    assert site.page(view).status == 200
    assert site.client.request("POST", f"{view}/cancel", body=b"").status == 403
    assert site.page(view[:-1] + ("A" if view[-1] != "A" else "B")).status == 404


def test_cancelling_a_job_that_has_ended_is_a_conflict(site: Site) -> None:
    started = site.started("/work/none")
    site.end(started["id"])
    assert site.client.request("POST", f"{started['url']}/cancel", body=b"").status == 409
