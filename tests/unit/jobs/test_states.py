"""The state of a job as users see it: why it waits, which attempt it is, and since when it has been running."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from backjob import BackJob, Status
from backjob.jobs import engine_of
from backjob.lifecycle import WAITING_TEXTS, cancelled
from backjob.model import Changes, Expect
from backjob.status.words import NO_SIGN
from backjob.testing import FakeClock
from tests.unit.acting import Acting, quiet_jobs


@pytest.fixture
def jobs() -> Iterator[BackJob]:
    with quiet_jobs() as jobs:
        yield jobs


@pytest.fixture
def clock(jobs: BackJob) -> FakeClock:
    clock = engine_of(jobs).clock
    assert isinstance(clock, FakeClock)
    return clock


# --- the text -------------------------------------------------------------------------------------------------------


def test_a_job_that_waits_for_a_retry_says_why_its_last_run_failed_and_which_attempt_follows(jobs: BackJob) -> None:
    acting = Acting(jobs, retries=3).claim()
    acting.report(progress=40, text="row 40 of 100", output="row 40\n")
    acting.retry("ValueError: row 41", delay=5)
    state = jobs.status(acting.id)
    assert (state.status, state.status_text) == (Status.STARTED, "ValueError: row 41; attempt 2 of 4")
    assert (state.attempt, state.retries, state.waiting_for) == (2, 3, "due")


def test_it_also_says_what_the_retry_waits_for(jobs: BackJob) -> None:
    acting = Acting(jobs, retries=1).claim().retry("boom")
    engine_of(jobs).store.change(acting.id, Expect(unclaimed=True), Changes(waiting_for="connection"))
    assert jobs.status(acting.id).status_text == f"boom; attempt 2 of 2; {WAITING_TEXTS['connection']}"


def test_a_retry_that_runs_shows_its_own_text(jobs: BackJob) -> None:
    acting = Acting(jobs, retries=3).claim().retry().claim()
    acting.report(text="again")
    state = jobs.status(acting.id)
    assert (state.status, state.status_text, state.attempt) == (Status.IN_PROGRESS, "again", 2)


@pytest.mark.parametrize("reason", WAITING_TEXTS)
def test_each_reason_to_wait_is_a_text(jobs: BackJob, reason: str) -> None:
    acting = Acting(jobs)
    engine_of(jobs).store.change(acting.id, Expect(unclaimed=True), Changes(waiting_for=reason))
    state = jobs.status(acting.id)
    assert (state.waiting_for, state.status_text) == (reason, WAITING_TEXTS[reason])


def test_between_two_slices_a_job_waits_for_nothing_and_keeps_its_text_and_progress(
    jobs: BackJob, clock: FakeClock
) -> None:
    acting = Acting(jobs).claim()
    acting.report(progress=40, text="row 40")
    acting.hand_over()
    clock.advance(60)
    state = jobs.status(acting.id)
    assert (state.status, state.waiting_for) == (Status.IN_PROGRESS, None)
    assert (state.progress, state.status_text, state.attempt) == (40, "row 40", 1)


def test_a_run_whose_lease_is_over_shows_no_sign_of_its_process_and_reading_writes_nothing(
    jobs: BackJob, clock: FakeClock
) -> None:
    acting = Acting(jobs).claim(lease=18)
    acting.report(text="row 40")
    before = acting.job
    clock.advance(17.9)
    assert jobs.status(acting.id).status_text == "row 40"
    clock.advance(0.1)
    state = jobs.status(acting.id)
    assert (state.status, state.status_text) == (Status.IN_PROGRESS, NO_SIGN)
    assert [one.status_text for one in jobs.find()] == [NO_SIGN]
    assert (acting.job.version, acting.job.token) == (before.version, before.token)


# --- the history ----------------------------------------------------------------------------------------------------


def test_the_history_has_begin_end_and_reason_of_each_earlier_run(jobs: BackJob, clock: FakeClock) -> None:
    acting = Acting(jobs, retries=2).claim()
    begin = clock.now()
    clock.advance(5)
    acting.retry("boom")
    end = clock.now()
    acting.claim().hand_over()
    (first, second) = jobs.status(acting.id).history
    assert first == {"run": 1, "begin": begin.isoformat(), "end": end.isoformat(), "reason": "boom"}
    assert (second["run"], second["reason"]) == (2, "continued")
    assert jobs.status(acting.id).as_dict()["history"] == [dict(first), dict(second)]


# --- the elapsed time -----------------------------------------------------------------------------------------------


def test_the_elapsed_time_counts_over_all_slices_and_to_the_end(jobs: BackJob, clock: FakeClock) -> None:
    acting = Acting(jobs).claim()
    began = clock.now()
    for _ in range(3):
        clock.advance(10)
        acting.hand_over()
        assert jobs.status(acting.id).start_time == began
        acting.claim()
    assert jobs.status(acting.id).start_time == began
    acting.end()
    assert jobs.status(acting.id).start_time == began


def test_after_a_retry_from_the_beginning_the_elapsed_time_counts_anew(jobs: BackJob, clock: FakeClock) -> None:
    acting = Acting(jobs, retries=1).claim()
    began = clock.now()
    clock.advance(10)
    acting.retry(delay=5)
    assert jobs.status(acting.id).start_time == began + timedelta(seconds=15), "when the retry is due"
    clock.advance(6)
    acting.claim()
    assert jobs.status(acting.id).start_time == clock.now()
    acting.end(cancelled)
    assert jobs.status(acting.id).start_time == began, "an ended job has taken the time of all its runs"


def test_after_a_retry_from_a_checkpoint_the_elapsed_time_goes_on(jobs: BackJob, clock: FakeClock) -> None:
    acting = Acting(jobs, retries=1).claim()
    began = clock.now()
    acting.report(progress=50, cursor=50)
    clock.advance(10)
    acting.retry().claim()
    state = jobs.status(acting.id)
    assert (state.progress, state.start_time) == (50, began)
