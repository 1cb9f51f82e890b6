"""The fake clock, and what importing parts of backjob.testing needs."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest

import backjob.testing
from backjob.testing import FakeClock


def test_time_stands_still_until_it_is_moved() -> None:
    clock = FakeClock()
    now, monotonic = clock.now(), clock.monotonic()
    assert (clock.now(), clock.monotonic()) == (now, monotonic)
    assert now.tzinfo is UTC
    clock.advance(1.5)
    assert (clock.now(), clock.monotonic()) == (now + timedelta(seconds=1.5), monotonic + 1.5)


def test_every_fake_clock_starts_at_the_same_time() -> None:
    assert FakeClock().now() == FakeClock().now()


def test_a_start_of_any_zone_is_told_in_utc() -> None:
    start = datetime(2030, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert FakeClock(start).now() == start
    assert FakeClock(start).now().tzinfo is UTC


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_a_jump_moves_the_wall_clock_alone(seconds: float) -> None:
    clock = FakeClock()
    now, monotonic = clock.now(), clock.monotonic()
    clock.jump(seconds)
    assert (clock.now() - now, clock.monotonic()) == (timedelta(seconds=seconds), monotonic)


def test_time_does_not_advance_backwards() -> None:
    with pytest.raises(ValueError, match="moves forward only"):
        FakeClock().advance(-1)


def test_advances_from_several_threads_all_count() -> None:
    clock = FakeClock()
    now = clock.now()

    def advance(_: int) -> None:
        for _ in range(500):
            clock.advance(0.000001)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(advance, range(8)))
    assert clock.now() - now == timedelta(microseconds=4000)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        backjob.testing.nothing_of_the_kind  # type: ignore[attr-defined]  # noqa: B018 - the access is the test
    assert "FakeClock" in dir(backjob.testing)


def test_the_fake_clock_needs_neither_pytest_nor_hypothesis_and_a_suite_says_what_it_needs() -> None:
    program = """
import sys
sys.modules["pytest"] = sys.modules["hypothesis"] = None
from backjob.testing import FakeClock
FakeClock().now()
from backjob.errors import MissingExtra
try:
    from backjob.testing import StoreContract
except MissingExtra as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "pip install 'backjob[testing]'" in done.stdout
