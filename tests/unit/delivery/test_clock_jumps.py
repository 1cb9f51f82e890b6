"""The clock is set forward or back by an hour: no job ends because of it, and none is left behind.

The clock is that of the whole machine, or only that of the store's host.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from attrs import define

from backjob.delivery.keeping import LEASE
from backjob.errors import ConnectionLost, JobContinued, SignatureError
from backjob.lifecycle import REFUSAL_HEADER
from backjob.model import Request, Status
from backjob.stores.memory import MemoryStore
from backjob.testing import FakeClock
from backjob.worker.outcomes import Outcome
from backjob.worker.replies import Refusal
from backjob.worker.running import Running
from tests.unit.core import COOKIE, Bench, Sent, bench, served

HOUR = 3600.0
RUN_LEASE = 18
DELIVERY_TIMEOUT = 600


@define
class StoreClock:
    """The clock of the store's host, which differs from another clock by ``offset`` seconds."""

    base: FakeClock
    offset: float = 0.0

    def now(self) -> datetime:
        return self.base.now() + timedelta(seconds=self.offset)

    def monotonic(self) -> float:
        return self.base.monotonic()


@define
class Hosts:
    """Two processes of one application. ``jump`` sets a clock; ``live`` lets time pass for the living ones."""

    first: Bench
    second: Bench
    store_clock: StoreClock
    of_store: bool

    def jump(self, seconds: float) -> None:
        if self.of_store:
            self.store_clock.offset += seconds
        else:
            self.first.clock.jump(seconds)

    def live(self, seconds: float, *, without_first: bool = False) -> None:
        """Let so many seconds pass."""
        for _ in range(int(seconds)):
            if without_first:
                self.second.step(1)
            else:
                self.first.step(0.5)
                self.second.leases.renew_if_due()
                self.second.step()
                self.first.step(0.5)
                self.second.leases.renew_if_due()
                self.second.step()


def make_hosts(*, of_store: bool, lives: float = 60) -> Hosts:
    clock = FakeClock()
    store_clock = StoreClock(clock)
    store = MemoryStore(clock=store_clock)
    first, second = bench(clock=clock, store=store), bench(clock=clock, store=store)
    for each in (first, second):
        each.leases.is_on_time = None
    hosts = Hosts(first, second, store_clock, of_store)
    hosts.live(lives)
    return hosts


@pytest.fixture(params=[False, True], ids=["of the machine", "of the store"])
def hosts(request: pytest.FixtureRequest) -> Hosts:
    return make_hosts(of_store=request.param)


def status(hosts: Hosts, job_id: str) -> Status:
    return hosts.second.job(job_id).status


def end(world: Bench, running: Running) -> None:
    world.engine.worker.end(running, Outcome(200, "OK"))


JUMPS = pytest.mark.parametrize("jumps", [(HOUR,), (-HOUR,), (HOUR, -HOUR), (-HOUR, HOUR)], ids=str)


# --- running jobs ---------------------------------------------------------------------------------------------------


@JUMPS
@pytest.mark.parametrize("between", [0, 5, 100])
def test_a_running_job_goes_on_when_the_clock_is_set(hosts: Hosts, jumps: tuple[float, ...], between: int) -> None:
    running = hosts.first.run(retries=1)
    for jump in jumps:
        hosts.live(between)
        hosts.jump(jump)
    for _ in range(100):
        hosts.live(1)
        assert hosts.second.jobs.status(running.job.id).status is Status.IN_PROGRESS
        assert hosts.first.job(running.job.id).run == 1
    end(hosts.first, running)
    assert status(hosts, running.job.id) is Status.COMPLETED
    assert [state.id for state in hosts.first.ended] == [running.job.id]


@JUMPS
@pytest.mark.parametrize("since", [0, 17])
def test_a_job_whose_process_died_before_the_clock_was_set_ends_soon(
    hosts: Hosts, jumps: tuple[float, ...], since: int
) -> None:
    running = hosts.first.run()
    hosts.live(since, without_first=True)
    for jump in jumps:
        hosts.jump(jump)
        hosts.live(2, without_first=True)
    seconds = 0
    while not status(hosts, running.job.id).is_final:
        hosts.live(1, without_first=True)
        seconds += 1
        assert seconds < 120
    # The pause after a jump, found within a minute, and a lease that counts from then.
    assert seconds <= (60 if hosts.of_store else 0) + 2 * RUN_LEASE + 6
    assert hosts.second.job(running.job.id).status_text == "the process that ran it ended"
    assert [state.id for state in hosts.second.ended] == [running.job.id]


def test_the_next_slice_does_not_wait_for_a_time_of_day_that_has_come_again(hosts: Hosts) -> None:
    running = hosts.first.run()
    hosts.first.transport.capacity = hosts.second.transport.capacity = 0
    running.set_cursor(1)
    hosts.first.engine.worker.end(running, Outcome(error=JobContinued()))
    hosts.first.transport.sent[-1].answer(202)
    hosts.live(1)
    hosts.jump(-HOUR)
    hosts.live(30)
    hosts.first.transport.capacity = hosts.second.transport.capacity = None
    hosts.live(LEASE + 10)
    assert len(hosts.first.transport.sent) + len(hosts.second.transport.sent) == 2


def test_a_silent_action_times_out_after_the_clock_was_set_back(hosts: Hosts) -> None:
    running = hosts.first.run(error_timeout=100)
    hosts.live(50)
    hosts.jump(-HOUR)
    hosts.live(100)
    assert status(hosts, running.job.id) is Status.IN_PROGRESS
    hosts.live(180)
    assert status(hosts, running.job.id) is Status.FAILED


def test_a_store_whose_clock_always_differs_delays_no_end(hosts: Hosts) -> None:
    world = make_hosts(of_store=True, lives=0)
    world.jump(-2 * HOUR)
    world.live(120)
    running = world.first.run()
    world.live(20, without_first=True)
    first = status(world, running.job.id)
    world.live(RUN_LEASE, without_first=True)
    assert first.is_final or status(world, running.job.id).is_final
    another = world.first.run()
    world.live(20, without_first=True)
    assert status(world, another.job.id) is Status.FAILED


# --- waiting jobs ---------------------------------------------------------------------------------------------------


@JUMPS
def test_a_delayed_job_runs_once_when_the_clock_is_set(hosts: Hosts, jumps: tuple[float, ...]) -> None:
    job_id = hosts.first.start(delay=100)
    for jump in jumps:
        hosts.live(10)
        hosts.jump(jump)
    hosts.live(100)
    if sum(jumps) < 0:  # it is due at a time of day
        assert hosts.second.transport.sent == hosts.first.transport.sent == []
        hosts.first.clock.advance(HOUR - 50)
        hosts.live(90)
    sent = [*hosts.first.transport.sent, *hosts.second.transport.sent]
    assert len(sent) == 1
    running = (hosts.first if hosts.first.transport.sent else hosts.second).receive()
    assert running.job.id == job_id


@JUMPS
def test_a_waiting_job_of_a_process_that_died_is_taken_soon(hosts: Hosts, jumps: tuple[float, ...]) -> None:
    job_id = hosts.first.start()
    assert hosts.first.job(job_id).lessee is not None
    for jump in jumps:
        hosts.jump(jump)
        hosts.live(2, without_first=True)
    seconds = 0
    while not hosts.second.transport.sent:
        hosts.live(1, without_first=True)
        seconds += 1
        assert seconds < 300
    assert seconds <= 60 + 2 * LEASE + 5
    assert hosts.second.receive().job.id == job_id


@JUMPS
def test_a_living_process_keeps_the_lease_of_a_job_whose_credentials_only_it_has(
    hosts: Hosts, jumps: tuple[float, ...]
) -> None:
    with served():
        job_id = hosts.first.start(as_current_user=True, delay=200)
    for jump in jumps:
        hosts.live(20)
        hosts.jump(jump)
    hosts.live(200)
    assert hosts.second.transport.sent == []
    (sent,) = hosts.first.transport.sent
    assert sent.delivery.sign().header("Cookie") == COOKIE
    assert status(hosts, job_id) is Status.STARTED


@JUMPS
@pytest.mark.parametrize("is_answered", [False, True])
def test_a_job_that_waits_in_the_servers_queue_has_its_whole_delivery_timeout(
    hosts: Hosts, jumps: tuple[float, ...], is_answered: bool
) -> None:
    job_id = hosts.first.start()
    hosts.first.step()
    if is_answered:  # each attempt fails
        hosts.first.transport.script = lambda sent: sent.fail(ConnectionLost("a proxy was impatient"))
        hosts.first.transport.sent[-1].fail(ConnectionLost("a proxy was impatient"))
    for jump in jumps:
        hosts.live(90)
        hosts.jump(jump)
    hosts.live(DELIVERY_TIMEOUT - 60 - 90 * len(jumps))
    assert status(hosts, job_id) is Status.STARTED
    hosts.live(100)
    if is_answered:
        assert status(hosts, job_id) is Status.FAILED
        assert "not claimed by the application in time" in (hosts.second.job(job_id).status_text or "")


@JUMPS
def test_a_signature_that_the_clock_made_invalid_is_renewed(jumps: tuple[float, ...]) -> None:
    hosts = make_hosts(of_store=False)
    job_id = hosts.first.start()
    hosts.first.step()
    waiting = hosts.first.transport.sent[-1]  # in the server's queue
    request = waiting.delivery.sign()
    hosts.jump(jumps[0])
    refuse_by_clock(hosts.first, waiting, request)
    hosts.live(2)
    again = hosts.first.transport.sent[-1]
    assert again is not waiting
    assert hosts.first.receive(again).job.id == job_id


def refuse_by_clock(world: Bench, sent: Sent, request: Request) -> None:
    """Answer as the middleware does."""
    with pytest.raises(Refusal) as caught:
        world.engine.worker.open(request)
    assert isinstance(caught.value.__cause__, SignatureError)
    refusal = caught.value
    sent.answer(refusal.status, refusal.reason, refusal.headers, str(refusal).encode())


def test_a_host_whose_clock_is_always_wrong_fails_the_job_with_the_reason() -> None:
    hosts = make_hosts(of_store=False)
    job_id = hosts.first.start()
    hosts.first.step()
    text = b"not valid yet: signed 3600 s ahead of this host's clock"
    for _ in range(4):
        hosts.first.transport.sent[-1].answer(403, "Forbidden", ((REFUSAL_HEADER, "clock"),), text)
        hosts.live(5)
    job = hosts.first.job(job_id)
    assert job.status is Status.FAILED
    assert "signed 3600 s ahead" in (job.status_text or "")
    assert len(hosts.first.transport.sent) == 4


# --- expiry ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_job_expires_by_the_stores_clock(hosts: Hosts, jump: float) -> None:
    hosts.first.transport.capacity = 0
    job_id = hosts.first.start(expires=1800)
    hosts.live(10)
    hosts.jump(jump)
    hosts.live(2)
    assert status(hosts, job_id) is Status.STARTED  # for a lease, nothing ends
    hosts.live(2 * RUN_LEASE)
    assert status(hosts, job_id) is (Status.FAILED if jump > 0 else Status.STARTED)


@JUMPS
def test_a_job_that_was_claimed_does_not_expire_when_the_clock_is_set(hosts: Hosts, jumps: tuple[float, ...]) -> None:
    running = hosts.first.run(expires=1800)
    for jump in jumps:
        hosts.jump(jump)
        hosts.live(5)
    hosts.live(40)
    assert status(hosts, running.job.id) is Status.IN_PROGRESS


def test_a_store_whose_wrong_clock_is_corrected_ends_no_running_job() -> None:
    hosts = make_hosts(of_store=True, lives=0)
    hosts.jump(-60)
    hosts.first.start()
    hosts.live(120)
    running = hosts.first.run()
    hosts.jump(60)
    hosts.live(40)
    assert status(hosts, running.job.id) is Status.IN_PROGRESS


def test_the_log_tells_a_jump_from_a_difference(caplog: pytest.LogCaptureFixture) -> None:
    world = make_hosts(of_store=True, lives=0)
    world.jump(-30)
    world.first.start()
    world.live(2)
    assert {record.getMessage() for record in caplog.records if "clock" in record.getMessage()} == {
        "the store's clock differs from this computer's by -30 s: no job is timed out for a while"
    }
    caplog.clear()
    world.jump(HOUR)
    world.first.start()
    world.live(65)
    assert [record.getMessage() for record in caplog.records if "clock" in record.getMessage()] == [
        "the store's clock jumped by 3600 s: no job is timed out for a while"
    ] * 2
