"""Cursors, slices and retries as an action uses them."""

from __future__ import annotations

import asyncio
import math
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from backjob import Status
from backjob.errors import (
    BackgroundOnly,
    InvalidRequest,
    JobContinued,
    JobEnded,
    JobExit,
    JobRetried,
    NoCurrentRequest,
)
from backjob.jobs import BackJob
from backjob.jobs.slices import save
from backjob.lifecycle import history_of
from backjob.model import Changes, Expect
from backjob.stores.sqlite import SQLiteStore
from tests.unit.core import bench, served
from tests.unit.jobs.slicing import SLICE_TIME, Slicing, slicing


def count_to_three(jobs: BackJob) -> None:
    done: Any = jobs.cursor or 0
    if done < 3:
        jobs.continue_later(done + 1)


def test_an_action_continues_from_its_cursor_in_further_runs_and_uses_up_no_retry() -> None:
    work = slicing(count_to_three)
    job = work.run()
    assert (job.status, job.run, job.attempt, job.token) == (Status.IN_PROGRESS, 2, 1, None)
    job = work.run_to_the_end()
    assert (job.status, job.run) == (Status.COMPLETED, 4)


def test_the_async_twins_do_the_same() -> None:
    seen: list[Any] = []

    async def action(jobs: BackJob) -> None:
        seen.append(jobs.cursor)
        if jobs.cursor is None:
            await jobs.acheckpoint("first")
            await jobs.acontinue_later("second")
        if jobs.attempt == 1:
            await jobs.aretry(text="once more")
        seen.append(jobs.attempt)

    work = slicing(action, retries=1)
    assert work.run_to_the_end().status is Status.COMPLETED
    assert seen == [None, "second", "second", 2]


def test_the_cursor_is_none_at_first_and_at_once_the_value_as_json_has_it() -> None:
    seen: list[Any] = []

    def action(jobs: BackJob) -> None:
        seen.append(jobs.cursor)
        jobs.checkpoint({"day": date(2026, 11, 29), "ids": (1, 2)})
        seen.append(jobs.cursor)

    work = slicing(action)
    work.run()
    assert seen == [None, {"day": "2026-11-29", "ids": [1, 2]}]


def test_a_cursor_is_a_copy_that_the_action_may_go_on_changing() -> None:
    ids = [1]

    def action(jobs: BackJob) -> None:
        jobs.checkpoint(ids)
        ids.append(2)
        assert jobs.cursor == [1]

    work = slicing(action)
    assert work.run().status is Status.COMPLETED


@pytest.mark.parametrize("method", ["continue_later", "checkpoint"])
def test_an_action_may_change_the_cursor_that_it_got_and_save_it_again(method: str, tmp_path: Path) -> None:
    def action(jobs: BackJob) -> None:
        state: Any = jobs.cursor or {"pages": []}
        if len(state["pages"]) == 5:
            return
        state["pages"].append("page")
        getattr(jobs, method)(state)
        jobs.continue_later()

    # A store in memory would keep the object that the action changes.
    work = slicing(action, store=SQLiteStore(tmp_path / "jobs.db"))
    assert work.run_to_the_end(10).status is Status.COMPLETED
    assert work.job.run == 6


def test_a_cursor_whose_keys_a_store_returns_in_another_order_has_not_moved() -> None:
    def action(jobs: BackJob) -> None:
        jobs.checkpoint({"row": 1, "page": 2})
        raise ValueError("broken")

    work = slicing(action, retries=1)
    job = work.run()
    reordered = {"cursor": {"page": 2, "row": 1}}
    work.world.store.store.change(work.id, Expect(version=job.version), Changes(cursor=reordered))
    assert work.run().status is Status.FAILED


@pytest.mark.parametrize(
    "cursor", [object(), math.nan, {1, 2}, "x" * 65_535, b"bytes"], ids=lambda value: type(value).__name__
)
@pytest.mark.parametrize("method", ["checkpoint", "continue_later"])
def test_a_cursor_that_cannot_be_kept_is_refused_at_once_and_nothing_is_lost(cursor: object, method: str) -> None:
    def action(jobs: BackJob) -> None:
        jobs.checkpoint("before")
        with pytest.raises(InvalidRequest) as caught:
            getattr(jobs, method)(cursor)
        assert caught.value.argument == "cursor"
        assert jobs.cursor == "before"

    assert slicing(action).run().status is Status.COMPLETED


def test_a_cursor_of_64_kib_is_kept() -> None:
    largest = "x" * 65_534  # and two quotation marks

    def action(jobs: BackJob) -> None:
        if jobs.cursor is None:
            jobs.continue_later(largest)
        assert jobs.cursor == largest

    assert slicing(action).run_to_the_end(2).status is Status.COMPLETED


def test_continue_later_without_a_cursor_keeps_the_last_one() -> None:
    def action(jobs: BackJob) -> None:
        if jobs.cursor is None:
            jobs.checkpoint(7)
            jobs.continue_later()
        assert jobs.cursor == 7

    assert slicing(action).run_to_the_end(2).status is Status.COMPLETED


def test_a_checkpoint_is_in_the_store_after_the_interval_of_reports_and_survives_a_crash() -> None:
    def action(jobs: BackJob) -> None:
        if jobs.cursor is None:
            jobs.checkpoint(5)
            work.world.clock.advance(0.1)
            work.world.step()
            assert work.job.cursor is not None
            raise SystemExit
        assert jobs.cursor == 5

    work = slicing(action)
    running_job = work.run()
    assert running_job.status is Status.IN_PROGRESS
    assert isinstance(work.error, SystemExit)
    assert running_job.cursor == {"cursor": 5}


@pytest.mark.parametrize("leave", ["raise", "retry", "fail over"])
def test_a_checkpoint_is_written_with_the_end_of_the_run_and_resets_the_attempts(leave: str) -> None:
    attempts: list[int | None] = []

    def action(jobs: BackJob) -> None:
        attempts.append(jobs.attempt)
        done: Any = jobs.cursor or 0
        if done == 4:
            return
        jobs.checkpoint(done + 1)
        if leave == "raise":
            raise ValueError("broken")
        jobs.retry()

    job = slicing(action, retries=1).run_to_the_end(5)
    assert job.status is Status.COMPLETED  # four failures with one retry: each had got on
    assert attempts[0] == 1
    assert set(attempts[1:]) == {2}


def test_a_checkpoint_that_does_not_move_resets_no_attempt() -> None:
    def action(jobs: BackJob) -> None:
        jobs.checkpoint("same")
        raise ValueError("broken")

    job = slicing(action, retries=2).run_to_the_end(10)
    assert job.status is Status.FAILED
    assert job.run <= 4  # the first run moved it


@pytest.mark.parametrize("leave", ["continue_later", "acontinue_later"])
def test_a_slice_that_moves_no_checkpoint_resets_no_attempt(leave: str) -> None:
    attempts: list[int | None] = []

    async def action(jobs: BackJob) -> None:
        attempts.append(jobs.attempt)
        if jobs.cursor is None:
            await jobs.acontinue_later(1)
        if len(attempts) % 2:
            (await jobs.acontinue_later(1)) if leave == "acontinue_later" else jobs.continue_later()
        raise ValueError("broken")

    job = slicing(action, retries=2).run_to_the_end(12)
    assert job.status is Status.FAILED
    assert attempts == [1, 1, 2, 2, 3, 3]


def test_retry_requeues_with_its_reason_and_delay_and_is_final_without_a_retry_left() -> None:
    def action(jobs: BackJob) -> None:
        jobs.retry(timedelta(minutes=2), "the remote system is busy")

    work = slicing(action, retries=1)
    job = work.run()
    assert (job.status, job.attempt) == (Status.STARTED, 2)
    assert job.start_time - job.read_time == timedelta(minutes=2)
    assert history_of(job)[0]["reason"] == "the remote system is busy"
    work.pass_time(120)
    job = work.run()
    assert (job.status, job.status_text) == (Status.FAILED, "the remote system is busy")


def test_a_long_delay_of_retry_is_kept() -> None:
    work = slicing(lambda jobs: jobs.retry(timedelta(days=90)), retries=1)
    job = work.run()
    assert job.start_time - job.read_time == timedelta(days=90)


@pytest.mark.parametrize("delay", [-1, math.nan, "5", True])
def test_retry_refuses_an_invalid_delay(delay: Any) -> None:
    def action(jobs: BackJob) -> None:
        with pytest.raises(InvalidRequest, match="delay"):
            jobs.retry(delay)

    assert slicing(action).run().status is Status.COMPLETED


@pytest.mark.parametrize("swallow", ["catch", "group", "catch and answer", "raise from it"])
def test_an_action_continues_also_if_it_or_its_framework_catches_the_exit(swallow: str) -> None:
    def action(jobs: BackJob) -> None:
        if jobs.cursor is not None:
            return
        try:
            jobs.continue_later(1)
        except JobExit as error:
            if swallow == "group":
                raise BaseExceptionGroup("tasks", [error]) from None
            if swallow == "raise from it":
                raise

    job = slicing(action).run_to_the_end(2)
    assert (job.status, job.run) == (Status.COMPLETED, 2)


def test_an_error_while_leaving_counts_more_than_the_exit() -> None:
    def action(jobs: BackJob) -> None:
        try:
            jobs.continue_later(1)
        finally:
            raise ValueError("broken while closing")

    job = slicing(action).run()
    assert (job.status, job.status_text) == (Status.FAILED, "ValueError: broken while closing")


def test_the_exits_say_what_they_are() -> None:
    assert (JobContinued().status, JobRetried("later", 5.0).status) == (202, 503)
    assert not isinstance(JobContinued(), Exception)


@pytest.mark.parametrize("method", ["continue_later", "retry"])
def test_outside_of_a_background_request_a_run_cannot_be_left(method: str) -> None:
    jobs = bench().jobs
    arguments = (1,) if method == "continue_later" else ()
    with served(), pytest.raises(BackgroundOnly, match=method):
        getattr(jobs, method)(*arguments)
    with pytest.raises(NoCurrentRequest, match=method):
        getattr(jobs, method)(*arguments)


def test_in_an_ordinary_request_the_rest_does_no_harm() -> None:
    jobs = bench().jobs
    with served():
        jobs.checkpoint(5)
        asyncio.run(jobs.acheckpoint(5))
        assert jobs.cursor is None
        assert jobs.time_left == math.inf
        assert (jobs.attempt, jobs.owner) == (None, None)
        with pytest.raises(InvalidRequest):
            jobs.checkpoint(object())


def test_an_action_sees_its_owner() -> None:
    def action(jobs: BackJob) -> None:
        assert jobs.owner == "ann"

    assert slicing(action, owner="ann").run().status is Status.COMPLETED


def test_time_left_counts_down_from_the_claim_and_is_0_while_draining() -> None:
    seen: list[float] = []

    def action(jobs: BackJob) -> None:
        seen.append(jobs.time_left)
        work.pass_time(SLICE_TIME - 1)
        seen.append(jobs.time_left)
        work.world.engine.draining.is_on = True
        seen.append(jobs.time_left)
        work.world.engine.draining.is_on = False
        work.pass_time(5)
        seen.append(jobs.time_left)

    work = slicing(action)
    work.run()
    assert seen == [SLICE_TIME, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("leave", ["checkpoint", "continue_later", "retry"])
def test_a_job_that_was_cancelled_ends_its_action_at_the_next_of_these_calls(leave: str) -> None:
    def action(jobs: BackJob) -> None:
        jobs.cancel(work.id)
        with pytest.raises(JobEnded):
            jobs.update(status_text="learns of it")
        with pytest.raises(JobEnded):
            getattr(jobs, leave)(*(() if leave == "retry" else (1,)))

    work = slicing(action)
    assert work.run().status is Status.CANCELLED


def test_a_cursor_that_must_be_saved_waits_for_a_store_that_fails_for_a_moment() -> None:
    pauses: list[float] = []

    def action(jobs: BackJob) -> None:
        running = jobs._running()
        assert running is not None
        work.world.store.down = {"report"}
        jobs.checkpoint(1)

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            assert not running.is_saved
            if len(pauses) == 5:
                work.world.store.down = set()

        save(running, pause)
        assert running.is_saved
        assert work.job.cursor == {"cursor": 1}

    work: Slicing = slicing(action)
    assert work.run().status is Status.COMPLETED, work.job.status_text
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.0]
