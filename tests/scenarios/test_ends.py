"""How a job ends follows from how its action ended."""

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
        ({"status": 403}, "403 forbidden"),
        ({"status": 404}, "404 not found"),
        ({"status": 500}, "500 internal server error"),
    ],
)
def test_an_answer_other_than_2xx_is_a_failure_that_names_it(site: Site, query: dict[str, object], text: str) -> None:
    state = site.run("/work/answer", query)
    # Frameworks write the reason phrase in different ways.
    assert (state.status, state.status_text.lower()) == (Status.FAILED, text)


@pytest.mark.parametrize("status", [200, 202, 204])
@pytest.mark.every_server
def test_a_2xx_answer_is_a_success(site: Site, status: int) -> None:
    assert site.run("/work/answer", {"status": status}).status is Status.COMPLETED


def test_a_route_that_does_not_exist_is_a_failure(site: Site) -> None:
    state = site.run("/nowhere")
    assert (state.status, state.status_text.lower()) == (Status.FAILED, "404 not found")


def test_a_login_page_before_the_action_is_a_failure_for_strangers_alone(site: Site) -> None:
    stranger = site.run("/work/members")
    assert (stranger.status, stranger.status_text.lower()) == (Status.FAILED, "302 found → /login")
    assert site.run("/work/members", visitor={"Cookie": "user=ann"}).status is Status.COMPLETED


@pytest.mark.every_server
def test_an_error_that_leaves_the_action_is_a_failure_with_its_message(site: Site) -> None:
    state = site.run("/work/raise", {"text": "the disk is full – ä"})
    assert (state.status, state.progress) == (Status.FAILED, 30)
    assert state.status_text == "ValueError: the disk is full – ä"


@pytest.mark.every_server
def test_fail_ends_the_action_at_once_with_its_text(site: Site) -> None:
    state = site.run("/work/fail", {"text": "Error occurred"})
    assert (state.status, state.progress, state.status_text) == (Status.FAILED, 70, "Error occurred")


def test_fail_without_a_text_keeps_the_text_that_stands(site: Site) -> None:
    state = site.run("/work/fail")
    assert (state.status, state.progress, state.status_text) == (Status.FAILED, 70, "half way")


def test_the_first_finish_counts_and_a_later_fail_is_stronger(site: Site) -> None:
    assert site.steps(["finish", "first"], ["finish", "second"]).status_text == "first"
    state = site.steps(["finish", "done"], ["fail", "not done"])
    assert (state.status, state.status_text) == (Status.FAILED, "not done")


@pytest.mark.parametrize(("query", "text"), [({"error": "torn"}, "ValueError: torn"), ({"fail": "enough"}, "enough")])
@pytest.mark.every_server
def test_a_stream_may_fail_half_way_and_its_output_stays(site: Site, query: dict[str, str], text: str) -> None:
    if "error" in query and site.app.startswith("litestar_app"):
        text = "LitestarException: Exception caught after response started"  # in the place of the action's own
    state = site.run("/work/stream", query)
    assert (state.status, state.progress) == (Status.FAILED, 40)
    assert state.status_text == text
    assert site.text(state.id) == "first second ä printed "


def test_a_job_is_ended_from_outside_by_another_or_by_a_page(site: Site) -> None:
    one, other, third = (site.start("/work/none", {"n": n}, delay=60) for n in range(3))
    assert site.steps(["finish", "by another", {"job_id": one}]).status is Status.COMPLETED
    assert site.steps(["fail", "by another", {"job_id": other}]).status is Status.COMPLETED
    page = site.page("/work/steps", {"steps": json.dumps([["finish", ["by a page"], {"job_id": third}]])})
    assert page.status == 200
    ends = [(state.status, state.status_text) for state in map(site.jobs.status, (one, other, third))]
    assert ends == [
        (Status.COMPLETED, "by another"),
        (Status.FAILED, "by another"),
        (Status.COMPLETED, "by a page"),
    ]
    assert [site.runs(job_id) for job_id in (one, other, third)] == [0, 0, 0]


def test_a_guarded_action_runs_as_a_job_alone(site: Site) -> None:
    assert site.page("/work/guarded").status == 403
    assert site.run("/work/guarded").status is Status.COMPLETED


@pytest.mark.every_server
def test_the_server_goes_on_after_failures(site: Site) -> None:
    for _ in range(5):
        assert site.run("/work/fail").status is Status.FAILED
        assert site.run("/work/raise", {"text": "again"}).status is Status.FAILED
    assert site.run("/work/none").status is Status.COMPLETED
    assert site.page("/ready").status == 200
