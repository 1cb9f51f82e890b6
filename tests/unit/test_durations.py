"""Durations and numbers that make no sense are refused at once, by an error that names the argument."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backjob.errors import InvalidRequest
from backjob.model import check_duration
from backjob.settings import Settings
from backjob.stores.sqlite import SQLiteStore
from backjob.testing import FakeClock, StoreContract, TransportContract
from backjob.testing._stores.generated import Search
from backjob.testing._stores.seeing import SeesOthers
from backjob.transports.inprocess import InProcessTransport
from backjob.transports.sockets import SocketTransport
from tests.unit.core import Bench, bench

NEVER_A_DURATION: tuple[Any, ...] = (math.nan, math.inf, -math.inf, -1, -0.001, 10**400, True, False, "3")
NEVER_A_COUNT: tuple[Any, ...] = (math.nan, math.inf, -1, 1.5, True, "3")


@pytest.fixture
def world() -> Bench:
    return bench()


def refuse(argument: str, call: Callable[[], object]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        call()
    assert caught.value.argument == argument


def application(_environ: Any, _start_response: Any) -> Any:
    raise NotImplementedError


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "3"], ids=str)
def test_a_wait_of_no_duration_is_refused(world: Bench, value: Any) -> None:
    job_id = world.start()
    refuse("timeout", lambda: world.jobs.join(job_id, timeout=value))
    refuse("timeout", lambda: asyncio.run(world.jobs.ajoin(job_id, timeout=value)))


@pytest.mark.parametrize("left", [-0.001, -3600, timedelta(seconds=-5)], ids=str)
def test_a_wait_until_a_deadline_that_is_over_ends_at_once(world: Bench, left: Any) -> None:
    job_id = world.start()
    with pytest.raises(TimeoutError):
        world.jobs.join(job_id, timeout=left)
    with pytest.raises(TimeoutError):
        asyncio.run(world.jobs.ajoin(job_id, timeout=left))


@pytest.mark.parametrize("value", NEVER_A_DURATION, ids=lambda value: str(value)[:10])
def test_a_value_that_is_no_duration_is_refused(world: Bench, tmp_path: Path, value: Any) -> None:
    jobs = world.jobs
    refuse("delay", lambda: world.start(delay=value))
    refuse("expires", lambda: world.start(expires=value))
    refuse("retry_delay", lambda: world.start(retry_delay=value))
    refuse("error_timeout", lambda: world.start(error_timeout=value))
    refuse("connect_timeout", lambda: SocketTransport("http://localhost", connect_timeout=value))
    refuse("close_timeout", lambda: InProcessTransport(application, interface="wsgi", close_timeout=value))
    refuse("busy_timeout", lambda: SQLiteStore(tmp_path / "jobs.db", busy_timeout=value))
    with world.run().active():
        refuse("delay", lambda: jobs.retry(delay=value))


@pytest.mark.parametrize(
    "name",
    [
        *("error_timeout", "delivery_timeout", "run_lease", "redispatch_after", "slice_time", "drain_time"),
        *("retention_days", "completed_retention_days"),
    ],
)
@pytest.mark.parametrize("value", NEVER_A_DURATION, ids=lambda value: str(value)[:10])
def test_an_option_that_is_no_duration_is_refused(name: str, value: Any) -> None:
    refuse(name, lambda: bench(**{name: value}))
    if value != "3":  # settings are read from texts, too
        refuse(name.upper(), lambda: Settings.of({name.upper(): value}))


@pytest.mark.parametrize("name", ["retention_days", "completed_retention_days"])
def test_the_longest_retention_works_and_a_longer_one_is_refused(name: str) -> None:
    longest: dict[str, Any] = {name: 1_000_000}
    longer: dict[str, Any] = {name: 1_000_001}
    assert bench(**longest).jobs.cleanup() == 0
    refuse(name, lambda: bench(**longer))


@pytest.mark.parametrize("value", NEVER_A_COUNT, ids=str)
def test_a_value_that_is_no_count_is_refused(world: Bench, value: Any) -> None:
    refuse("max_in_flight", lambda: SocketTransport("http://localhost", max_in_flight=value))
    refuse("max_response", lambda: SocketTransport("http://localhost", max_response=value))
    refuse("max_header", lambda: SocketTransport("http://localhost", max_header=value))
    refuse("threads", lambda: InProcessTransport(application, threads=value, interface="wsgi"))
    refuse("limit", lambda: world.jobs.find(limit=value))
    refuse("offset", lambda: world.jobs.output(world.start(), value))


@pytest.mark.parametrize("total", [math.nan, math.inf, -math.inf, True], ids=str)
def test_a_total_that_is_no_number_of_items_is_refused_before_the_first_item(world: Bench, total: Any) -> None:
    async def items() -> AsyncIterator[int]:
        yield 1

    with world.run().active():
        refuse("total", lambda: world.jobs.track([1], total=total))
        refuse("total", lambda: world.jobs.atrack(items(), total=total))


def test_an_amount_that_is_no_number_is_named(world: Bench) -> None:
    with world.run().active():
        refuse("amount", lambda: world.jobs.increment(math.nan))
        refuse("progress", lambda: world.jobs.update(math.nan))


@pytest.mark.parametrize(
    "seconds", [math.nan, math.inf, -math.inf, True, "3", 10**400], ids=lambda value: str(value)[:10]
)
def test_a_fake_clock_moves_by_durations_only(seconds: Any) -> None:
    clock = FakeClock()
    refuse("seconds", lambda: clock.advance(seconds))
    refuse("seconds", lambda: clock.jump(seconds))
    assert (clock.now(), clock.monotonic()) == (FakeClock().now(), 0)


def test_a_duration_may_be_a_timedelta(tmp_path: Path) -> None:
    clock = FakeClock()
    clock.advance(timedelta(minutes=1))
    clock.jump(timedelta(minutes=-3))
    assert (clock.now() - FakeClock().now(), clock.monotonic()) == (timedelta(minutes=-2), 60)
    SQLiteStore(tmp_path / "jobs.db", busy_timeout=timedelta(seconds=1)).close()
    SocketTransport("http://localhost", connect_timeout=timedelta(seconds=1)).close()
    InProcessTransport(application, interface="wsgi", close_timeout=timedelta(seconds=1)).close()
    assert check_duration("wait", timedelta(milliseconds=1)) == 0.001


@pytest.mark.parametrize("value", [math.nan, -1, True], ids=str)
def test_an_attribute_of_a_contract_that_is_no_duration_is_refused(tmp_path: Path, value: Any) -> None:
    class OfStore(StoreContract):
        patience = value

    class OfProcesses(SeesOthers):
        clock_tolerance = value

        def address(self) -> str:
            return "memory:"

    refuse("patience", lambda: OfStore().opened(tmp_path).__enter__())
    refuse("clock_tolerance", lambda: OfProcesses().placed(tmp_path).__enter__())
    refuse("shrinking", lambda: Search(value))
    for name in ("patience", "silence"):
        contract = type("OfTransport", (TransportContract,), {name: value})()
        refuse(name, lambda contract=contract: next(type(contract).peer.__wrapped__(contract)))  # type: ignore[misc]
