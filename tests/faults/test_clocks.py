"""The clock of a machine is set forward and back by an hour while two processes run jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backjob import Status
from tests.faults.hosts import LEASE, Hosts, hosts
from tests.scenarios.client import Gate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

HOUR = 3600


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


def set_clock(world: Hosts, offset: int) -> None:
    new = world.faults / "new"
    new.write_text(str(offset))
    new.rename(world.faults / "offset")


@pytest.mark.parametrize(
    "offsets", [pytest.param(offsets, marks=pytest.mark.nightly) for offsets in ((HOUR, 0), (-HOUR, 0))], ids=str
)
def test_a_clock_that_is_set_ends_no_job_and_leaves_none_behind(
    tmp_path: Path, gate: Gate, offsets: tuple[int, ...]
) -> None:
    with hosts(tmp_path, HOST_CLOCK="yes") as world:
        job_id, action = world.hold(gate)
        delayed = world.first.start("/work/none", as_current_user=False, delay=2 * LEASE)

        def check() -> None:
            job = world.store.get(job_id)
            assert job is not None
            assert (job.status, job.run) == (Status.IN_PROGRESS, 1)

        world.observe(LEASE + 1, check)
        for offset in offsets:
            set_clock(world, offset)
            assert world.first.run("/work/none", as_current_user=False).status is Status.COMPLETED
            world.observe(2 * LEASE, check)
        assert action.release() == "returned"
        for each in (job_id, delayed):
            assert world.second.end(each).status is Status.COMPLETED
            assert world.ends(each) == ["COMPLETED"]
            assert world.first.runs(each) == 1


@pytest.mark.parametrize("offset", [-HOUR, pytest.param(HOUR, marks=pytest.mark.nightly)])
def test_a_job_whose_process_died_just_before_the_clock_was_set_is_retried_soon(
    tmp_path: Path, gate: Gate, offset: int
) -> None:
    with hosts(tmp_path, HOST_CLOCK="yes") as world:
        job_id, action = world.hold(gate, retries=1, retry_delay=0)
        world.observe(LEASE + 1, lambda: None)
        world.first.server.kill()
        set_clock(world, offset)
        assert action.left() == ""
        again = gate.reached()
        assert again.pid == world.second.server.process.pid
        assert again.release() == "returned"
        assert world.second.end(job_id).status is Status.COMPLETED
        assert world.job(job_id).run == 2
        assert world.ends(job_id) == ["COMPLETED"]
