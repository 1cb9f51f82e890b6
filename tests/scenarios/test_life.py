"""Starting, delaying, merging and cancelling jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from backjob import Status
from tests.scenarios.client import Gate
from tests.scenarios.sites import Site, result_of

ANN = {"Cookie": "user=ann"}


@pytest.mark.every_server
def test_start_returns_before_the_action_ends_even_with_one_worker(site: Site, gate: Gate) -> None:
    # The action can't end before the response to start() arrives, because the test releases it only then.
    job_id = site.start("/work/hold", {"gate": gate.port})
    held = gate.reached()
    assert site.jobs.status(job_id).status is Status.IN_PROGRESS
    assert held.release() == "returned"
    assert site.end(job_id).status is Status.COMPLETED


@pytest.mark.every_server
def test_jobs_that_start_together_run_once_each(site: Site) -> None:
    ids = [site.start("/work/none", {"number": number}) for number in range(20)]
    assert [site.end(job_id).status for job_id in ids] == [Status.COMPLETED] * 20
    assert [site.runs(job_id) for job_id in ids] == [1] * 20


@pytest.mark.parametrize("mount", ["", "/shop"])
@pytest.mark.every_server
def test_a_job_starts_the_next_job_as_the_same_user(site: Site, mount: str) -> None:
    next_id: Any = site.start("/work/chain", {"left": 3}, visitor=ANN, source="127.0.0.3", mount=mount)
    addresses = set()
    for _ in range(4):
        state = site.end(next_id)
        assert (state.status, state.status_text, state.owner) == (Status.COMPLETED, "user=ann", "ann")
        result = result_of(state)
        next_id = result["next"]
        addresses.add(result["address"])
    assert next_id is None
    assert len(addresses) == 1


def test_a_delayed_job_does_not_run_before_its_time(site: Site) -> None:
    job_id = site.start("/work/see", delay=0.3)
    state = site.end(job_id)
    assert datetime.fromisoformat(result_of(state)["time"]) >= state.start_time
    assert state.status is Status.COMPLETED


@pytest.mark.parametrize("as_current_user", [True, False])
def test_a_cancelled_waiting_job_never_runs(site: Site, as_current_user: bool) -> None:
    started = site.started("/work/none", delay=60, as_current_user=as_current_user)
    page = site.client.request("POST", f"{started['url']}/cancel", body=b"")
    assert (page.status, page.json()["status_name"]) == (200, "CANCELLED")
    assert site.jobs.status(started["id"]).status_text == "cancelled"
    assert not site.jobs.cancel(started["id"])
    assert site.runs(started["id"]) == 0


@pytest.mark.every_server
def test_the_next_update_of_a_cancelled_job_ends_its_action(site: Site, gate: Gate) -> None:
    job_id = site.start("/work/hold", {"gate": gate.port})
    held = gate.reached()
    assert site.jobs.cancel(job_id)
    assert held.release() == "JobEnded"
    state = site.end(job_id)
    assert (state.status, state.status_text) == (Status.CANCELLED, "cancelled")
    assert site.run("/work/none").status is Status.COMPLETED


def test_identical_waiting_jobs_merge_and_take_the_newest_due_time(site: Site) -> None:
    first = site.start("/work/none", {"id": 5}, delay=60, merge="pending", as_current_user=False)
    other = site.start("/work/none", {"id": 6}, delay=60, merge="pending", as_current_user=False)
    second = site.start("/work/none", {"id": 5}, merge="pending", as_current_user=False)
    assert (second == first, other == first) == (True, False)
    assert site.end(first).status is Status.COMPLETED
    assert site.runs(first) == 1
    assert site.start("/work/none", {"id": 5}, delay=60, merge="pending", as_current_user=False) != first
    assert site.jobs.cancel(other)


def test_a_job_merges_with_an_identical_running_job_of_the_same_user_only(site: Site, gate: Gate) -> None:
    query = {"gate": gate.port}
    job_id = site.start("/work/hold", query, merge="unfinished", visitor=ANN)
    held = gate.reached()
    if site.kind.workers > 1:
        assert site.start("/work/hold", query, merge="unfinished", visitor=ANN) == job_id
        theirs = site.start("/work/hold", query, merge="unfinished", visitor={"Cookie": "user=bob"}, delay=60)
        assert theirs != job_id
        assert site.jobs.cancel(theirs)
    held.release()
    site.end(job_id)
    assert site.runs(job_id) == 1


def test_a_visitors_double_click_merges_with_himself_only(site: Site) -> None:
    def click(name: str) -> str:
        visitor = {"Cookie": f"session={name}; sessionid={name}"} if name else None
        return site.start("/work/none", merge="pending", delay=60, visitor=visitor)

    clicks = [click(name) for name in ("ann", "bob", "ann", "bob", "", "")]
    assert clicks[:2] == clicks[2:4]
    assert len(set(clicks)) == 4
    for job_id in set(clicks):
        site.jobs.cancel(job_id)


def test_a_refused_start_stores_nothing(site: Site) -> None:
    before = [state.id for state in site.jobs.find(limit=1000)]
    for arguments in ({"method": "get"}, {"form": {"a": 1}}, {"delay": -1}, {"headers": {"Host": "x"}}):
        refusal = site.refused("/work/none", **arguments)
        assert refusal["error"] == "InvalidRequest"
        assert next(iter(arguments)) in refusal["text"]
    assert [state.id for state in site.jobs.find(limit=1000)] == before
