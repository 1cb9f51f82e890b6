"""``jobs.start`` with a name or a path, and in a transaction."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connections, transaction
from django.test import Client, override_settings

from backjob import InvalidRequest, JobNotFound, JobState, Status
from backjob.django import jobs
from backjob.django.models import Job
from backjob.django.signals import job_ended
from backjob.django.testing import immediate, recorded
from backjob.jobs import engine_of
from backjob.worker.leases import Leases
from tests.adapters.django import views

CACHED = {"CACHE": "default"}


@pytest.fixture(params=[{}, CACHED], ids=["store", "cache"], autouse=True)
def settings(request: pytest.FixtureRequest, any_database: str) -> Iterator[None]:
    with override_settings(BACKJOB=request.param):
        yield


@pytest.fixture
def deferred(any_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On SQLite a transaction locks the database at its first write, and not at its beginning."""
    if any_database == "sqlite":
        connections["default"].ensure_connection()
        monkeypatch.setattr(connections["default"], "transaction_mode", None)


def started(**options: Any) -> str:
    given: dict[str, Any] = {"path": "see", "as_current_user": False, **options}
    return jobs.start(**given)


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ({"path": "see"}, "/see"),
        ({"path": "see-more", "args": [5, "a b"]}, "/see/5/a%20b"),
        ({"path": "see-more", "kwargs": {"number": 5, "word": "w"}, "query": {"q": "ü"}}, "/see/5/w?q=%C3%BC"),
        ({"path": "/see/7/x?y=1"}, "/see/7/x?y=1"),
    ],
)
def test_start_accepts_the_name_of_a_view_or_a_path(options: dict[str, Any], target: str) -> None:
    with recorded() as noted:
        job_id = started(**options)
    assert [(job.job_id, job.request.target) for job in noted] == [(job_id, target)]


@pytest.mark.parametrize(
    "options", [{"path": "nowhere"}, {"path": "see-more"}, {"path": "see", "args": [1]}, {"path": "/see", "args": []}]
)
def test_an_unknown_route_is_refused_and_nothing_is_stored(options: dict[str, Any]) -> None:
    with recorded() as noted, pytest.raises(InvalidRequest) as refusal:
        started(**options)
    assert refusal.value.argument == "path"
    assert (noted, Job.objects.count()) == ([], 0)


def test_values_that_are_passed_as_arguments_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"'number', 'word'.* kwargs"):
        started(path="see-more", number=5, word="w")


def test_delivery_begins_when_the_transaction_commits() -> None:
    with recorded() as noted:
        with transaction.atomic():
            job_id = started()
            assert noted == []
            assert jobs.status(job_id).status is Status.STARTED
        assert [job.job_id for job in noted] == [job_id]
    assert jobs.exists(job_id)


@pytest.mark.parametrize("inner", [False, True], ids=["transaction", "savepoint"])
def test_after_a_rollback_there_is_no_job_and_nothing_is_sent(inner: bool) -> None:
    def undone() -> str:
        with transaction.atomic():
            job_id = started()
            transaction.set_rollback(True)
        return job_id

    with recorded() as noted:
        if inner:
            with transaction.atomic():
                job_id = undone()
        else:
            job_id = undone()
    assert noted == []
    with pytest.raises(JobNotFound):
        jobs.status(job_id)
    assert not Job.objects.exists()


@pytest.mark.parametrize("merge", ["pending", "unfinished"])
def test_merged_starts_within_a_transaction_are_one_job(merge: Any) -> None:
    with recorded() as noted:
        with transaction.atomic():
            ids = [started(merge=merge, owner="Bo") for _ in range(2)]
        ids.append(started(merge=merge, owner="Bo"))
    assert len(set(ids)) == len(noted) == 1


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("path", ["start", "start-within"])
def test_a_page_starts_a_job_and_its_action_runs(path: str) -> None:
    answer = Client().post(f"/{path}", {"path": "see", "delay": 5}, content_type="application/json").json()
    state = jobs.status(answer["id"])
    assert (state.status, state.status_text) == (Status.COMPLETED, "<b>Seen</b>")
    assert Client().get(answer["url"]).json()["id"] == state.id


# --- cancelling -----------------------------------------------------------------------------------------------------


@pytest.fixture
def ends() -> Iterator[list[JobState]]:
    """The states that `job_ended` was sent with."""
    states: list[JobState] = []

    def note(state: JobState, **_options: Any) -> None:
        states.append(state)

    job_ended.connect(note)
    yield states
    job_ended.disconnect(note)


def after_callbacks(ends: list[JobState]) -> list[JobState]:
    """The states, once the thread that sends the signal has nothing left to do."""
    assert engine_of(jobs).callbacks.get().flush(20)
    return ends


def test_the_signal_of_a_cancelled_job_is_sent_when_the_transaction_commits(ends: list[JobState]) -> None:
    with recorded():
        job_id = started()
    with transaction.atomic():
        assert jobs.cancel(job_id)
        assert after_callbacks(ends) == []
    assert [(state.id, state.status) for state in after_callbacks(ends)] == [(job_id, Status.CANCELLED)]


def test_a_rollback_undoes_the_cancellation_and_sends_no_signal(ends: list[JobState]) -> None:
    with recorded():
        job_id = started()
    with transaction.atomic():
        assert jobs.cancel(job_id)
        transaction.set_rollback(True)
    assert (after_callbacks(ends), jobs.status(job_id).status) == ([], Status.STARTED)


def test_the_signal_of_a_job_that_times_out_when_read_is_sent_when_the_transaction_commits(
    ends: list[JobState], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Leases, "may_reap", lambda _leases: True)  # as in a process that has run for one lease
    with recorded():
        job_id = started()
    now = time.time_ns() // 1000
    # A process has renewed its lease ten seconds ago, and delivers it.
    Job.objects.update(deliver_by=now - 1_000_000, lease_until=now + 20_000_000)
    with transaction.atomic():
        assert jobs.status(job_id).status is Status.FAILED
        assert after_callbacks(ends) == []
    assert [state.status for state in after_callbacks(ends)] == [Status.FAILED]


@pytest.mark.usefixtures("at_once", "deferred")
def test_the_signal_of_a_job_that_cancels_itself_is_sent_whatever_its_transaction_does(ends: list[JobState]) -> None:
    job_id = started(path="cancel-itself")
    assert views.seen == [{"ends": 1}]
    assert [(state.id, state.status) for state in ends] == [(job_id, Status.CANCELLED)]


# --- a job's own reports --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("at_once", "deferred")
@pytest.mark.parametrize(
    ("query", "status"), [({}, Status.COMPLETED), ({"leave": 1}, Status.FAILED)], ids=["undone", "left by an error"]
)
def test_reports_are_visible_at_once_and_survive_a_rollback_of_the_action(
    query: dict[str, Any], status: Status
) -> None:
    state = jobs.status(started(path="within", query=query))
    assert views.seen == [{"from beside": [40, "within"]}]
    assert (state.status, jobs.output(state.id).text) == (status, "from within\n")
    if status is Status.COMPLETED:
        assert state.status_text == "within"
        assert not jobs.exists(str(state.result))
    assert Job.objects.count() == 1


@pytest.mark.usefixtures("deferred")
def test_reports_are_visible_at_once_with_atomic_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    with immediate():
        assert jobs.status(started(path="within")).status is Status.COMPLETED
        assert views.seen == [{"from beside": [40, "within"]}]
        views.seen.clear()
        started(path="only")
        started(path="see")
    assert [sight["atomic"] for sight in views.seen] == [False, True]
