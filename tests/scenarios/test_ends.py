"""How the end of an action determines the end of its job."""

from __future__ import annotations

import json

import pytest

from backjob import Status
from tests.scenarios.sites import Site


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"status": 302, "location": "/login"}, "302 found → /login"),
        ({"status": 303, "location": "/a?b=c"}, "303 see other → /a?b=c"),
        ({"status": 403}, "403 forbidden: an answer"),
        ({"status": 404}, "404 not found: an answer"),
        ({"status": 500}, "500 internal server error: an answer"),
    ],
)
def test_a_response_other_than_2xx_fails_the_job_and_is_named_in_its_status_text(
    site: Site, query: dict[str, object], text: str
) -> None:
    state = site.run("/work/answer", query)
    # Frameworks write the reason phrase in different ways.
    assert (state.status, state.status_text.lower()) == (Status.FAILED, text)


@pytest.mark.parametrize("status", [200, 202, 204])
@pytest.mark.every_server
def test_a_2xx_response_completes_the_job(site: Site, status: int) -> None:
    assert site.run("/work/answer", {"status": status}).status is Status.COMPLETED


def test_a_route_that_does_not_exist_fails_the_job(site: Site) -> None:
    state = site.run("/nowhere")
    assert (state.status, state.status_text.lower()) == (Status.FAILED, "404 not found: no such page")


def test_a_redirect_to_the_login_page_fails_only_anonymous_jobs(site: Site) -> None:
    anonymous = site.run("/work/members")
    assert (anonymous.status, anonymous.status_text.lower()) == (Status.FAILED, "302 found → /login")
    assert site.run("/work/members", visitor={"Cookie": "user=ann"}).status is Status.COMPLETED


@pytest.mark.every_server
def test_an_uncaught_exception_fails_the_job_with_its_message(site: Site) -> None:
    state = site.run("/work/raise", {"text": "the disk is full – ä"})
    assert (state.status, state.progress) == (Status.FAILED, 30)
    assert state.status_text == "ValueError: the disk is full – ä"


@pytest.mark.every_server
def test_fail_ends_the_action_at_once_with_its_text(site: Site) -> None:
    state = site.run("/work/fail", {"text": "Error occurred"})
    assert (state.status, state.progress, state.status_text) == (Status.FAILED, 70, "Error occurred")


def test_fail_without_a_text_keeps_the_current_status_text(site: Site) -> None:
    state = site.run("/work/fail")
    assert (state.status, state.progress, state.status_text) == (Status.FAILED, 70, "half way")


def test_the_first_finish_counts_and_a_later_fail_overrides_it(site: Site) -> None:
    assert site.steps(["finish", "first"], ["finish", "second"]).status_text == "first"
    state = site.steps(["finish", "done"], ["fail", "not done"])
    assert (state.status, state.status_text) == (Status.FAILED, "not done")


@pytest.mark.parametrize(("query", "text"), [({"error": "torn"}, "ValueError: torn"), ({"fail": "enough"}, "enough")])
@pytest.mark.every_server
def test_a_streamed_response_that_fails_half_way_keeps_its_output(site: Site, query: dict[str, str], text: str) -> None:
    if "error" in query and site.app.startswith("litestar_app"):
        text = "LitestarException: Exception caught after response started"  # hides the action's exception
    state = site.run("/work/stream", query)
    assert (state.status, state.progress) == (Status.FAILED, 40)
    assert state.status_text == text
    assert site.text(state.id) == "first second ä printed "


def test_another_job_or_a_foreground_request_can_end_a_job(site: Site) -> None:
    first, second, third = (site.start("/work/none", {"n": n}, delay=60) for n in range(3))
    assert site.steps(["finish", "by another job", {"job_id": first}]).status is Status.COMPLETED
    assert site.steps(["fail", "by another job", {"job_id": second}]).status is Status.COMPLETED
    page = site.page("/work/steps", {"steps": json.dumps([["finish", ["by a request"], {"job_id": third}]])})
    assert page.status == 200
    ends = [(state.status, state.status_text) for state in map(site.jobs.status, (first, second, third))]
    assert ends == [
        (Status.COMPLETED, "by another job"),
        (Status.FAILED, "by another job"),
        (Status.COMPLETED, "by a request"),
    ]
    assert [site.runs(job_id) for job_id in (first, second, third)] == [0, 0, 0]


def test_a_background_only_action_refuses_foreground_requests(site: Site) -> None:
    assert site.page("/work/guarded").status == 403
    assert site.run("/work/guarded").status is Status.COMPLETED


@pytest.mark.every_server
def test_the_server_keeps_serving_after_failures(site: Site) -> None:
    for _ in range(5):
        assert site.run("/work/fail").status is Status.FAILED
        assert site.run("/work/raise", {"text": "again"}).status is Status.FAILED
    assert site.run("/work/none").status is Status.COMPLETED
    assert site.page("/ready").status == 200
