"""``on_end`` or a dispatch that does not return: leases, ends and deliveries go on; the end of the process waits only a moment."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from backjob import Status
from backjob.transports.sockets import SocketTransport
from tests.faults.hosts import LEASE, hosts
from tests.scenarios.client import Gate
from tests.scenarios.servers import Kind, gunicorn

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

DEAD = "the process that ran it ended"
ONE_WORKER = Kind(
    name="gunicorn one worker",
    command=gunicorn("--workers=1", "--worker-class=gthread", "--threads=6", "--graceful-timeout=30"),
    workers=6,
    address="configured",
)


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


LONG = pytest.mark.parametrize(
    "seconds", [1.5 * LEASE, pytest.param(60.0, marks=pytest.mark.nightly)], ids=lambda seconds: f"{seconds:g} s"
)


@LONG
def test_an_on_end_that_sleeps_stops_neither_leases_nor_ends_nor_deliveries(
    tmp_path: Path, gate: Gate, seconds: float
) -> None:
    with hosts(tmp_path) as world:
        (world.faults / "blocked").touch()
        first = world.first.run("/work/none", as_current_user=False)
        assert first.status is Status.COMPLETED
        job_id, action = world.hold(gate)
        ended: list[str] = [first.id]

        def check() -> None:
            action.proceed()  # it waits for at most two minutes
            assert world.job(job_id).status is Status.IN_PROGRESS
            state = world.first.run("/work/none", as_current_user=False)
            assert state.status is Status.COMPLETED
            ended.append(state.id)

        world.observe(seconds, check)
        assert action.release() == "returned"
        assert world.second.end(job_id).status is Status.COMPLETED
        assert not (tmp_path / "ends").exists()
        (world.faults / "blocked").unlink()
        for each in [*ended, job_id]:
            assert world.ends(each) == ["COMPLETED"]
        lines = (tmp_path / "ends").read_text().splitlines()
        assert len(lines) == len(ended) + 1 == len(set(lines))


@LONG
def test_a_dispatch_that_blocks_stops_neither_leases_nor_ends_nor_deliveries(
    tmp_path: Path, gate: Gate, seconds: float
) -> None:
    dispatched = tmp_path / "dispatched"
    with hosts(tmp_path) as world:
        world.first.run("/work/none", as_current_user=False)  # a process may dispatch once it knows its address
        (world.faults / "blocked").touch()
        for_engine = [world.first.start("/work/none", as_current_user=False, queue="engine") for _ in range(3)]
        job_id, action = world.hold(gate)
        killed, other = world.hold(gate, on=world.second)
        world.second.server.kill()
        assert other.left() == ""

        def check() -> None:
            action.proceed()  # it waits for at most two minutes
            assert world.job(job_id).status is Status.IN_PROGRESS
            assert world.first.run("/work/none", as_current_user=False).status is Status.COMPLETED
            assert {world.job(each).status for each in for_engine} == {Status.STARTED}

        world.observe(seconds, check)
        world.until(lambda: world.has_ended(killed))
        assert (world.job(killed).status, world.job(killed).status_text) == (Status.FAILED, DEAD)
        assert action.release() == "returned"
        assert world.first.end(job_id).status is Status.COMPLETED
        assert not dispatched.exists()
        (world.faults / "blocked").unlink()
        world.until(lambda: dispatched.exists() and len(dispatched.read_text().split()) == len(for_engine))
        assert dispatched.read_text().split() == for_engine
        transport = SocketTransport(f"http://127.0.0.1:{world.first.server.client.address[1]}")
        for each in for_engine:
            assert world.second.jobs.deliver(each, transport=transport).status is Status.COMPLETED
            assert world.first.runs(each) == 1


@pytest.mark.parametrize("is_blocked", [False, True])
def test_a_process_that_ends_makes_the_calls_that_wait_or_says_how_many_it_has_not_made(
    tmp_path: Path, is_blocked: bool
) -> None:
    with hosts(tmp_path, kind=ONE_WORKER) as world:
        (world.faults / "blocked").touch()
        ended = [world.first.run("/work/none", as_current_user=False).id for _ in range(3)]
        process = world.first.server.process
        process.send_signal(signal.SIGTERM)
        world.first.server.wait_for_log("Worker exiting", 30)
        if not is_blocked:
            (world.faults / "blocked").unlink()
        assert process.wait(30) == 0
        log = world.first.server.log.read_text()
        if is_blocked:
            assert not (tmp_path / "ends").exists()
            assert "the process ends before on_end has returned for 3 jobs" in log
        else:
            assert [world.ends(job_id) for job_id in ended] == [["COMPLETED"]] * 3
            assert "before on_end has returned" not in log
