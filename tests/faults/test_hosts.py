"""A host that is stopped, too slow, or cut off from the store: short faults end nothing; long ones end the run, and fence it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from backjob import Status
from tests.faults.hosts import LEASE, Hosts, by_port, hosts, proceed, stop
from tests.faults.links import Link
from tests.scenarios.client import Gate, Held
from tests.scenarios.servers import KINDS
from tests.shared_stores import BY_NAME, SharedStore

DEAD = "the process that ran it ended"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# The times of the promises are those of the default lease (18 s); the usual runs have a third of each.


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


def assert_running(world: Hosts, job_id: str, run: int = 1) -> Callable[[], None]:
    def check() -> None:
        job = world.job(job_id)
        assert (job.status, job.run) == (Status.IN_PROGRESS, run)

    return check


def assert_completes(world: Hosts, job_id: str, action: Held) -> None:
    assert action.release() == "returned"
    assert world.second.end(job_id).status is Status.COMPLETED
    assert world.ends(job_id) == ["COMPLETED"]


def assert_dead(world: Hosts, job_id: str) -> None:
    world.until(lambda: world.has_ended(job_id))
    job = world.job(job_id)
    assert (job.status, job.status_text) == (Status.FAILED, DEAD)


def ripe(world: Hosts) -> None:
    """Wait until the second host has run for a lease, so that it may end jobs. Before the action: that waits for 120 s at most."""
    world.observe(world.lease + 1, lambda: None)


@pytest.fixture(scope="module", params=[LEASE, pytest.param(18.0, marks=pytest.mark.nightly)])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Two hosts for all tests whose faults both survive. The second one may end jobs."""
    with hosts(tmp_path_factory.mktemp("hosts"), lease=request.param) as world:
        ripe(world)
        yield world


# --- stopped processes ----------------------------------------------------------------------------------------------


def test_a_process_that_is_stopped_for_10_seconds_loses_nothing(world: Hosts, gate: Gate) -> None:
    job_id, action = world.hold(gate)
    for _ in range(2 if world.lease > LEASE else 1):
        stop(world.first)
        world.observe(world.lease * 10 / 18, assert_running(world, job_id))
        proceed(world.first)
        world.observe(world.lease / 3, assert_running(world, job_id))
    assert_completes(world, job_id, action)


@pytest.mark.parametrize("retries", [pytest.param(0, marks=pytest.mark.nightly), 1])
def test_a_process_that_is_stopped_for_60_seconds_loses_its_job_and_is_fenced(
    world: Hosts, gate: Gate, retries: int
) -> None:
    job_id, late = world.hold(gate, retries=retries, retry_delay=0)
    stop(world.first)
    over = time.monotonic() + world.lease * 60 / 18
    if not retries:
        assert_dead(world, job_id)
        world.observe(over - time.monotonic(), lambda: None)
        proceed(world.first)
        assert late.release() == "JobEnded"
        assert world.ends(job_id) == ["FAILED"]
        return
    again = gate.reached()
    assert again.pid == world.second.server.process.pid
    world.observe(over - time.monotonic(), assert_running(world, job_id, run=2))
    proceed(world.first)
    assert late.release() == "JobEnded"
    again.proceed()
    assert_completes(world, job_id, again)
    assert world.job(job_id).run == 2


@pytest.mark.nightly
def test_a_machine_that_is_suspended_as_a_whole_loses_nothing(world: Hosts, gate: Gate) -> None:
    job_id, action = world.hold(gate)
    stop(world.first, world.second)
    world.observe(world.lease * 1.3, assert_running(world, job_id))
    proceed(world.second, world.first)  # the one that judges first
    world.observe(world.lease, assert_running(world, job_id))
    assert_completes(world, job_id, action)


# --- a process whose threads can't run ------------------------------------------------------------------------------


def test_a_gil_that_is_held_for_15_seconds_ends_nothing(world: Hosts, gate: Gate) -> None:
    # In a short lease a busy machine takes its part of the margin.
    seconds = 15 if world.lease == 18 else world.lease * 0.6
    job_id, action = world.hold(gate, "/work/gil", seconds=seconds)
    for _ in range(2 if world.lease > LEASE else 1):
        action.proceed()
        world.observe(seconds + world.lease / 2, assert_running(world, job_id))
    action._connection.sendall(b".")
    assert action.left() == "returned"
    assert world.second.end(job_id).status is Status.COMPLETED


@pytest.mark.nightly
def test_a_gil_that_is_held_for_longer_than_the_lease_ends_the_run(tmp_path: Path, gate: Gate) -> None:
    with hosts(tmp_path) as world:
        ripe(world)
        job_id, action = world.hold(gate, "/work/gil", seconds=3 * LEASE)
        action.proceed()
        assert_dead(world, job_id)
        action._connection.sendall(b".")
        assert action.left() == "returned"
        assert world.first.run("/work/none", as_current_user=False).status is Status.COMPLETED
        assert world.job(job_id).status_text == DEAD
        assert world.ends(job_id) == ["FAILED"]


@pytest.mark.nightly
def test_leases_are_renewed_although_their_thread_can_not_be_started(tmp_path: Path, gate: Gate) -> None:
    with hosts(tmp_path, HOST_NO_THREADS="yes") as world:
        job_id, action = world.hold(gate)
        world.observe(2.5 * LEASE, assert_running(world, job_id))
        assert "thread that renews leases can't be started" in world.first.server.tail()
        assert_completes(world, job_id, action)


# --- ends of processes ----------------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_a_forked_child_that_outlives_its_process_does_not_keep_the_job_alive(tmp_path: Path, gate: Gate) -> None:
    with hosts(tmp_path) as world:
        job_id = world.first.start("/work/forked", {"gate": gate.port}, as_current_user=False)
        both = [gate.reached(), gate.reached()]
        ripe(world)
        assert world.job(job_id).status is Status.IN_PROGRESS
        parent, child = sorted(both, key=lambda action: action.pid != world.first.server.process.pid)
        os.kill(parent.pid, signal.SIGKILL)
        assert parent.left() == ""
        assert_dead(world, job_id)
        child.proceed()
        assert child.left() == "returned"
        assert world.ends(job_id) == ["FAILED"]


@pytest.mark.nightly
@pytest.mark.parametrize("retries", [0, 1])
def test_an_action_that_ends_its_process_at_once_is_dead(tmp_path: Path, retries: int) -> None:
    with hosts(tmp_path, kind=KINDS["gunicorn-threads"]) as world:
        ripe(world)
        job_id = world.first.start("/work/exit", as_current_user=False, retries=retries, retry_delay=0)
        world.until(lambda: world.has_ended(job_id))
        job = world.job(job_id)
        expected = (Status.COMPLETED, 2) if retries else (Status.FAILED, 1)
        assert (job.status, job.run) == expected
        assert retries or job.status_text == DEAD
        assert world.ends(job_id) == [expected[0].name]


# --- the link to the database ---------------------------------------------------------------------------------------


LONG_CUTS = [("hang", LEASE, 0), ("cut", 18.0, 0), ("hang", 18.0, 1)]
HOW = pytest.mark.parametrize("how", ["cut", pytest.param("hang", marks=pytest.mark.nightly)])
DATABASES = pytest.mark.parametrize(
    "store",
    [
        pytest.param(BY_NAME["PostgreSQL"], marks=pytest.mark.services),
        pytest.param(BY_NAME["MariaDB"], marks=pytest.mark.nightly),
        pytest.param(BY_NAME["Redis"], marks=pytest.mark.nightly),
    ],
    ids=str,
)


@contextmanager
def linked(directory: Path, store: SharedStore, lease: float = LEASE) -> Iterator[tuple[Hosts, Link]]:
    """Two hosts, and the link of the first to the store's server."""
    with store.place(directory) as url, ExitStack() as stack:
        parts = urlsplit(url)
        link = stack.enter_context(Link((parts.hostname or "", parts.port or 0)))
        yield stack.enter_context(hosts(directory, url, by_port(url, link.port), lease=lease)), link


@DATABASES
@pytest.mark.parametrize(
    ("how", "lease", "retries"),
    [("cut", LEASE, 1), *(pytest.param(*case, marks=pytest.mark.nightly) for case in LONG_CUTS)],
)
def test_a_host_that_is_cut_off_from_the_database_for_30_seconds_is_fenced(  # noqa: PLR0917 - pytest passes them by name
    tmp_path: Path, gate: Gate, store: SharedStore, lease: float, how: str, retries: int
) -> None:
    with linked(tmp_path, store, lease) as (world, link):
        ripe(world)
        job_id, late = world.hold(gate, retries=retries, retry_delay=0)
        getattr(link, how)()
        over = time.monotonic() + lease * 30 / 18
        world.observe(lease / 3, assert_running(world, job_id))
        if retries:
            again = gate.reached()
            assert again.pid == world.second.server.process.pid
            world.observe(over - time.monotonic(), assert_running(world, job_id, run=2))
            link.restore()
            late.release()  # by now it may know that it is late
            assert_completes(world, job_id, again)
            assert world.job(job_id).run == 2
        else:
            assert_dead(world, job_id)
            world.observe(over - time.monotonic(), lambda: None)
            link.restore()
            late.release()
            assert world.ends(job_id) == ["FAILED"]
        world.works_again()
        assert world.job(job_id).status is (Status.COMPLETED if retries else Status.FAILED)


@DATABASES
@HOW
def test_a_database_that_fails_for_a_second_ends_nothing(
    tmp_path: Path, gate: Gate, store: SharedStore, how: str
) -> None:
    with linked(tmp_path, store) as (world, link):
        ripe(world)
        job_id, action = world.hold(gate)
        others = []
        for _ in range(2):
            others += [world.first.start("/work/none", as_current_user=False) for _ in range(5)]
            getattr(link, how)()
            world.observe(1, assert_running(world, job_id))
            link.restore()
            world.observe(2, assert_running(world, job_id))
        states = [world.second.end(one) for one in others]
        assert {(state.status, state.status_text) for state in states} == {(Status.COMPLETED, "")}, (
            world.first.server.tail()
        )
        assert_completes(world, job_id, action)
