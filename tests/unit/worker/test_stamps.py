"""Times at the beginnings of lines."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from backjob.output import plain
from backjob.testing import FakeClock
from backjob.worker.stamps import Stamps
from tests.unit.core import bench

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
AT = "2026-03-01 12:00:00Z "


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        (["one\ntwo\n"], f"{AT}one\n{AT}two\n"),
        (["on", "e\n", "two"], f"{AT}one\n{AT}two"),
        (["one\n", "\n", "two"], f"{AT}one\n\n{AT}two"),
        (["10%\r", "20%", "\rdone\n"], f"{AT}10%\r{AT}20%\r{AT}done\n"),
        (["one\r\ntwo"], f"{AT}one\r\n{AT}two"),
        (["\x1b[1m", "bold\x1b[0m\n"], f"\x1b[1m{AT}bold\x1b[0m\n"),
        (["a\n\r\x1b[2K\x1b[1A\x1b[2Kb"], f"{AT}a\n\r\x1b[2K\x1b[1A\x1b[2K{AT}b"),
        (["a", ""], f"{AT}a"),
    ],
)
def test_each_line_begins_with_its_time(texts: list[str], shown: str) -> None:
    stamps = Stamps(lambda: NOON)
    assert "".join(map(stamps.stamped, texts)) == shown


def test_a_line_that_is_overwritten_has_the_latest_time() -> None:
    times = iter([NOON, NOON + timedelta(seconds=5)])
    stamps = Stamps(lambda: next(times))
    text = stamps.stamped("10%") + stamps.stamped("\r20%\n")
    assert plain(text) == "2026-03-01 12:00:05Z 20%\n"


def test_the_output_of_a_job_has_times_if_the_setting_says_so() -> None:
    world = bench(clock=FakeClock(NOON), timestamp_output=True)
    running = world.run()
    with running.active():
        print("first")
        world.clock.advance(61)
        world.jobs.echo("second\n")
    running.flush()
    assert world.jobs.output(running.job.id).text == f"{AT}first\n2026-03-01 12:01:01Z second\n"
