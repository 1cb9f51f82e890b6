"""When, how often and as whom a job runs: retries, expires, queue, as_owner; what can't work is refused with the remedy."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import evolve

from backjob.errors import InvalidRequest, JobFailed
from backjob.model import Status
from backjob.settings import Settings
from backjob.stores.cache import CacheStore
from backjob.testing import FakeClock
from backjob.worker.outcomes import Outcome
from tests.contracts.dict_cache import DictCache
from tests.unit.core import COOKIE, Bench, bench, served


@pytest.fixture
def world() -> Bench:
    return bench()


def jobs_in(world: Bench) -> int:
    return len(world.store.store._jobs)  # type: ignore[attr-defined]


# --- what is stored -------------------------------------------------------------------------------------------------


def test_the_terms_are_stored(world: Bench) -> None:
    job = world.job(world.start(retries=3, retry_delay=timedelta(minutes=2), queue="exports", expires=60))
    assert (job.retries, job.retry_delay, job.queue) == (3, 120.0, "exports")
    assert job.expires == world.clock.now() + timedelta(seconds=60)
    assert (job.deliver_by, job.as_owner, job.run, job.delivery, job.attempt) == (None, False, 1, 1, 1)


def test_without_terms_a_job_has_one_run_and_waits_for_ever(world: Bench) -> None:
    job = world.job(world.start())
    assert (job.retries, job.retry_delay, job.queue, job.expires, job.error_timeout) == (0, 10.0, "default", None, 3600)


@pytest.mark.parametrize("expires", [60, 60.0, timedelta(minutes=1), datetime(2031, 5, 17, 11, 23, 33, 456789, UTC)])
def test_expires_is_in_seconds_or_a_moment(world: Bench, expires: Any) -> None:
    assert world.clock.now() == datetime(2031, 5, 17, 11, 22, 33, 456789, UTC)
    assert world.job(world.start(expires=expires)).expires == world.clock.now() + timedelta(seconds=60)


@pytest.mark.parametrize("delay", [60, 61.5, timedelta(hours=1), datetime(2031, 5, 17, 11, 23, 33, 456789, UTC)])
@pytest.mark.parametrize("expires", [60, datetime(2031, 5, 17, 11, 23, 33, 456789, UTC)])
def test_a_job_that_would_expire_before_it_is_due_is_refused(world: Bench, delay: Any, expires: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"expires: .* is not after the delay"):
        world.start(delay=delay, expires=expires)
    assert jobs_in(world) == 0
    assert world.start(delay=59, expires=expires)


def test_an_error_timeout_may_be_a_timedelta(world: Bench) -> None:
    assert world.job(world.start(error_timeout=timedelta(minutes=5))).error_timeout == 300


@pytest.mark.parametrize(
    "name", ["error_timeout", "delivery_timeout", "run_lease", "redispatch_after", "slice_time", "drain_time"]
)
def test_each_duration_may_be_a_timedelta(name: str) -> None:
    option: dict[str, Any] = {name: timedelta(minutes=2)}
    negative: dict[str, Any] = {name: timedelta(minutes=-2)}
    assert getattr(bench(**option).engine.options, name) == 120
    assert getattr(Settings.of({name.upper(): timedelta(minutes=2)}), name) == 120
    with pytest.raises(InvalidRequest, match=name):
        bench(**negative)


def test_an_error_timeout_of_0_is_none(world: Bench) -> None:
    assert world.job(world.start(error_timeout=0)).error_timeout == 0
    assert bench(error_timeout=0).engine.options.error_timeout == 0


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *[("retries", value) for value in (-1, 1.5, True, "3", None, 1 << 40)],
        *[("retry_delay", value) for value in (-1, math.nan, "3", None, True, timedelta(seconds=-1))],
        *[("queue", value) for value in ("", None, 5, "x" * 101, "a\0b", "a\nb", "é" * 51)],
        *[("expires", value) for value in (0, -1, math.nan, "3", True, timedelta(), datetime(2040, 1, 1))],  # noqa: DTZ001
        ("expires", datetime(2000, 1, 1, tzinfo=UTC)),
        *[("error_timeout", value) for value in (-1, 0.0001, True, False, "3", math.nan)],
    ],
    ids=str,
)
def test_an_invalid_term_is_refused_before_anything_is_stored(world: Bench, argument: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        world.start(**{argument: value})
    assert caught.value.argument == argument
    assert jobs_in(world) == 0


@pytest.mark.parametrize("how", ["cookie", "header"])
def test_retries_need_credentials_that_any_process_has(world: Bench, how: str) -> None:
    options: dict[str, Any] = (
        {"headers": {"Authorization": "Bearer x"}} if how == "header" else {"as_current_user": True}
    )
    with served(), pytest.raises(InvalidRequest, match=r"SEAL.*as_owner") as caught:
        world.start(retries=1, **options)
    assert caught.value.argument == "retries"
    assert jobs_in(world) == 0
    sealing = bench(seal=True)
    with served():
        assert sealing.job(sealing.start(retries=1, **options)).sealed is not None
    assert world.job(world.start(retries=1)).retries == 1


def test_a_store_that_may_drop_jobs_takes_no_retries() -> None:
    clock = FakeClock()
    world = bench(store=CacheStore(DictCache(), clock=clock), clock=clock)
    with pytest.raises(InvalidRequest, match="database"):
        world.start(retries=1)


# --- as the owner ---------------------------------------------------------------------------------------------------


def test_as_owner_stores_no_credentials_and_sends_none(world: Bench) -> None:
    with served():
        job_id = world.jobs.start("/work", as_owner=True, owner="5", retries=2)
    job = world.job(job_id)
    assert (job.as_owner, job.owner, job.held, job.sealed) == (True, "5", False, None)
    world.step()
    request = world.transport.sent[-1].delivery.sign()
    assert request.header("Cookie") is None
    assert COOKIE not in repr(request.headers)


def test_as_owner_with_seal_seals_nothing() -> None:
    world = bench(seal=True)
    with served():
        job = world.job(world.jobs.start("/work", as_owner=True, owner="5"))
    assert (job.held, job.sealed) == (False, None)


@pytest.mark.parametrize("owner", [None, ""])
def test_as_owner_needs_an_owner(world: Bench, owner: str | None) -> None:
    with served(), pytest.raises(InvalidRequest, match="owner hook") as caught:
        world.jobs.start("/work", as_owner=True, owner=owner)
    assert caught.value.argument == "as_owner"
    assert jobs_in(world) == 0


@pytest.mark.parametrize("field", ["Cookie", "Authorization"])
def test_as_owner_takes_no_other_credentials(world: Bench, field: str) -> None:
    with served(), pytest.raises(InvalidRequest, match=field) as caught:
        world.jobs.start("/work", as_owner=True, owner="5", headers={field: "x"})
    assert caught.value.argument == "headers"
    assert jobs_in(world) == 0


def test_as_owner_needs_no_request_and_fits_retries_and_delays(world: Bench) -> None:
    job_id = world.jobs.start("/work", as_owner=True, owner="5", retries=1, retry_delay=0, delay=10)
    other = bench(clock=world.clock, store=world.store.store)
    other.step(10)
    running = other.receive()
    other.engine.worker.end(running, Outcome(error=ZeroDivisionError("no")))
    other.step(2)
    assert other.receive().job.run == 2
    assert running.job.id == job_id


def test_a_call_as_the_owner_joins_only_jobs_as_the_owner(world: Bench) -> None:
    first = world.start(owner="5", merge="unfinished")
    with served():
        second = world.jobs.start("/work", owner="5", as_owner=True, merge="unfinished")
        assert second != first
        assert world.jobs.start("/work", owner="5", as_owner=True, merge="unfinished") == second
        assert world.jobs.start("/work", owner="6", as_owner=True, merge="unfinished") != second


def test_terms_do_not_keep_calls_from_merging(world: Bench) -> None:
    first = world.start(merge="unfinished", queue="a", retries=1)
    assert world.start(merge="unfinished", queue="b", retries=2) == first


@pytest.mark.parametrize("expires", [60, timedelta(seconds=70), None])
@pytest.mark.parametrize("as_datetime", [False, True])
def test_a_job_that_later_calls_postpone_past_its_expiry_runs_all_the_same(
    world: Bench, expires: Any, as_datetime: bool
) -> None:
    first = world.start(merge="pending", delay=5, expires=60)
    for _ in range(16):
        world.step(4)
        delay = world.clock.now() + timedelta(seconds=5) if as_datetime else 5
        assert world.start(merge="pending", delay=delay, expires=expires) == first
    world.step(5)
    assert world.receive().job.id == first


def test_a_job_that_a_later_call_joins_still_expires_if_both_calls_want_that(world: Bench) -> None:
    first = world.start(merge="pending", delay=5, expires=60)
    before = world.job(first).expires
    assert world.start(merge="pending", delay=50, expires=90) == first
    assert world.job(first).expires == before
    assert world.start(merge="pending", delay=1) == first
    assert world.job(first).expires is None


def test_a_row_that_was_changed_to_run_as_its_owner_is_not_sent(world: Bench) -> None:
    job_id = world.start(owner="5", delay=1)
    stored = world.store.store._jobs  # type: ignore[attr-defined]
    stored[job_id] = evolve(stored[job_id], as_owner=True)
    world.step(1)
    world.step(2)
    assert world.transport.sent == []
    assert world.job(job_id).status is Status.FAILED


# --- join inside an action ------------------------------------------------------------------------------------------


def test_join_in_an_action_raises_unless_the_job_has_ended(world: Bench) -> None:
    running = world.run()
    child = world.start("/child")
    with running.active(), pytest.raises(InvalidRequest, match="place"):
        world.jobs.join(child)
    with running.active(), pytest.raises(InvalidRequest, match="place"):
        asyncio.run(world.jobs.ajoin(child, timeout=1))
    world.jobs.cancel(child)
    with running.active():
        assert world.jobs.join(child).status is Status.CANCELLED
        assert asyncio.run(world.jobs.ajoin(child)).status is Status.CANCELLED


def test_watch_in_an_action_raises_unless_the_job_has_ended(world: Bench) -> None:
    async def awatch() -> list[Status]:
        return [state.status async for state in world.jobs.awatch(child)]

    running = world.run()
    child = world.start("/child")
    with running.active(), pytest.raises(InvalidRequest, match=r"watch\(\) in an action .* place"):
        list(world.jobs.watch(child))
    with running.active(), pytest.raises(InvalidRequest, match=r"watch\(\) in an action .* place"):
        asyncio.run(awatch())
    world.jobs.cancel(child)
    with running.active():
        assert [state.status for state in world.jobs.watch(child)] == [Status.CANCELLED]
        assert asyncio.run(awatch()) == [Status.CANCELLED]


def test_fail_is_final_whatever_retries_are_left(world: Bench) -> None:
    running = world.run(retries=5)
    world.engine.worker.end(running, Outcome(error=JobFailed("no such report")))
    job = world.job(running.job.id)
    assert (job.status, job.status_text, job.run) == (Status.FAILED, "no such report", 1)
