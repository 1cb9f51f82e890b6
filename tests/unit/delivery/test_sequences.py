"""Random sequences of everything that processes do and suffer: no run is claimed twice, no slot is shared, every job ends."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

import pytest
from attrs import define, field

from backjob.errors import BackJobError, ConnectionLost, JobContinued, NotSent
from backjob.model import Job, JobState
from backjob.stores.memory import MemoryStore
from backjob.testing import FakeClock
from backjob.worker.outcomes import Outcome
from backjob.worker.replies import Refusal
from backjob.worker.running import Running
from tests.unit.core import Bench, Sent, bench, served

QUEUES: Final = {"exports": {"max_running": 2}}
SITE: Final[dict[str, Any]] = {"queues": QUEUES, "max_running": 3, "run_lease": 6.0, "delivery_timeout": 120.0}


@define(eq=False)
class Process:
    """One process: its `BackJob`, the runs that it works on, and until when (monotonic, s) it is stopped."""

    bench: Bench
    running: list[tuple[Running, Sent]] = field(factory=list)
    stopped_until: float = 0.0


@define
class World:
    """Processes with one store and one clock. Each request reaches any process."""

    random: random.Random
    clock: FakeClock = field(factory=FakeClock)
    processes: list[Process] = field(factory=list)
    jobs: list[str] = field(factory=list)
    claims: dict[tuple[str, int], int] = field(factory=dict)
    late: list[Sent] = field(factory=list)
    ended: list[list[JobState]] = field(factory=list)
    calm: bool = False
    store: MemoryStore = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.store = MemoryStore(clock=self.clock)
        for _ in range(3):
            self.begin()

    def begin(self) -> Process:
        one = bench(clock=self.clock, store=self.store, **SITE)
        one.leases.is_on_time = None  # as it is
        process = Process(one)
        self.processes.append(process)
        self.ended.append(one.ended)
        return process

    @property
    def now(self) -> float:
        return self.clock.monotonic()

    def awake(self) -> list[Process]:
        return [process for process in self.processes if process.stopped_until <= self.now]

    def read(self, job_id: str) -> Job:
        job = self.store.get(job_id)
        assert job is not None
        return job

    # --- what may happen --------------------------------------------------------------------------------------------

    def start(self) -> None:
        options: dict[str, Any] = {"queue": self.random.choice(["default", "default", "exports"])}
        if self.random.random() < 0.3:
            options |= {"delay": self.random.randrange(1, 10)}
        process = self.random.choice(self.awake() or self.processes).bench
        if self.random.random() < 0.3:
            with served():
                self.jobs.append(process.jobs.start("/work", as_current_user=True, **options))
        else:
            options |= {"retries": self.random.randrange(4), "retry_delay": self.random.randrange(3)}
            self.jobs.append(process.start(**options))

    def arrive(self) -> None:
        """A request arrives at some process, which claims its job or refuses it."""
        pending = [sent for one in self.processes for sent in one.bench.transport.sent if not sent.future.done()]
        taken = {id(sent) for one in self.processes for _, sent in one.running}
        pending = [sent for sent in pending if id(sent) not in taken] + self.late
        awake = self.awake()
        if not pending or not awake:
            return
        sent, process = self.random.choice(pending), self.random.choice(awake)
        if sent in self.late:
            self.late.remove(sent)
        try:
            running = process.bench.receive(sent)
        except Refusal as refusal:
            if not sent.future.done():
                sent.answer(refusal.status, headers=refusal.headers)
            return
        except NotSent as error:
            if not sent.future.done():
                sent.fail(error)
            return
        key = running.job.id, running.job.run
        self.claims[key] = self.claims.get(key, 0) + 1
        assert self.claims[key] == 1, f"claimed twice: {key}"
        process.running.append((running, sent))

    def finish(self) -> None:
        process = self.random.choice(self.processes)
        if process.stopped_until > self.now or not process.running:
            return
        running, sent = process.running.pop(self.random.randrange(len(process.running)))
        outcome = self.random.choice(
            [Outcome(200, "OK"), Outcome(200, "OK"), Outcome(500), Outcome(error=JobContinued())]
        )
        if self.calm:
            outcome = Outcome(200, "OK")
        if isinstance(outcome.error, JobContinued) and not running.ended:
            running.set_cursor(self.random.random())
        process.bench.engine.worker.end(running, outcome)
        if not sent.future.done():
            sent.answer(outcome.status or 202)

    def lose(self) -> None:
        """A connection is lost, or a proxy gives up; the request may still arrive, or be running."""
        pending = [sent for one in self.processes for sent in one.bench.transport.sent if not sent.future.done()]
        if not pending:
            return
        sent = self.random.choice(pending)
        taken = {id(each) for one in self.processes for _, each in one.running}
        if self.random.random() < 0.5:
            sent.fail(ConnectionLost("lost"))
        else:
            sent.answer(self.random.choice([502, 504]))
        if id(sent) not in taken and self.random.random() < 0.7:
            self.late.append(sent)

    def kill(self) -> None:
        victim = self.random.choice(self.processes)
        self.processes.remove(victim)
        taken = [id(sent) for _, sent in victim.running]
        self.late += [sent for sent in victim.bench.transport.sent if not sent.future.done() and id(sent) not in taken]
        for _, sent in victim.running:
            if not sent.future.done():
                sent.fail(ConnectionLost("killed"))
        self.begin()

    def leave(self) -> None:
        """A process drains, finishes what it runs, and ends."""
        process = self.random.choice(self.processes)
        process.bench.engine.draining.is_on = True
        process.bench.step()
        while process.running:
            running, sent = process.running.pop()
            process.bench.engine.worker.end(running, Outcome(200, "OK"))
            if not sent.future.done():
                sent.answer()
        process.bench.step()
        process.bench.monitor.close()
        self.processes.remove(process)
        self.begin()

    def stop(self) -> None:
        self.random.choice(self.processes).stopped_until = self.now + self.random.choice([1, 8, 40])

    def cancel(self) -> None:
        if self.jobs:
            self.random.choice(self.processes).bench.jobs.cancel(self.random.choice(self.jobs))

    def look(self) -> None:
        if self.jobs:
            self.random.choice(self.processes).bench.jobs.status(self.random.choice(self.jobs))

    def fail_store(self) -> None:
        """The store of one process fails for a while."""
        store = self.random.choice(self.processes).bench.store
        store.down = set() if store.down else {"change", "beat", "find", "get", "take_due", "report", "count"}

    def lose_answers(self) -> None:
        """The store writes what one process changes, but its answers are lost for a while."""
        store = self.random.choice(self.processes).bench.store
        store.lost = set() if store.lost else {"change", "report", "beat", "take_due"}

    # --- time -------------------------------------------------------------------------------------------------------

    def tick(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for process in self.awake():
            leases = process.bench.leases
            leases.renew_if_due()
            for _ in range(20):
                if process.bench.monitor.step():
                    break
            else:
                pytest.fail("the monitor does not come to rest")
        self.check()

    def check(self) -> None:
        jobs = [*self.store._jobs.values()]
        taken = [job.slot for job in jobs if job.slot is not None]
        assert len(taken) == len(set(taken))
        assert set(taken) <= {"exports/0", "exports/1"}
        running = [job for job in jobs if job.token and not job.status.is_final]
        assert all(job.slot for job in running if job.queue == "exports"), "it runs without its slot"

    def step(self) -> None:
        events: list[tuple[Callable[[], None], int]] = [
            (self.start, 6), (self.arrive, 20), (self.finish, 10), (self.lose, 2), (self.kill, 1), (self.leave, 1),
            (self.stop, 1), (self.cancel, 1), (self.look, 3), (self.fail_store, 1), (self.lose_answers, 1),
        ]  # fmt: skip
        event = self.random.choices([each for each, _ in events], [weight for _, weight in events])[0]
        try:
            event()
        except BackJobError:
            assert any(process.bench.store.down | process.bench.store.lost for process in self.processes)
        self.tick(self.random.choice([0.0, 0.01, 0.1, 0.5, 1.0]))

    def end_all(self) -> None:
        """Nothing else happens: requests arrive, and actions return."""
        self.calm = True
        for process in self.processes:
            process.bench.store.down = process.bench.store.lost = set()
        for _ in range(2000):
            if all(job.status.is_final for job in self.store._jobs.values()):
                return
            for _ in range(8):
                self.arrive()
                self.finish()
            self.tick(0.25)
        waiting = [self.read(job_id) for job_id in self.jobs if not self.read(job_id).status.is_final]
        pytest.fail(f"these have not ended: {waiting}")


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(1, 40))])
def test_whatever_happens_every_job_ends_and_no_run_or_slot_is_given_twice(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(random.Random(seed))
    for _ in range(200):
        world.step()
    world.end_all()
    for _ in range(70):  # the last answers, and the checks of what another process has ended
        world.tick(1.0)
    ended = [state.id for states in world.ended for state in states]
    assert len(ended) == len({*ended})  # on_end is called at most once
    for process in world.processes:
        deliveries = process.bench.monitor._deliveries
        assert not [one for one in deliveries._by_id.values() if one.future is None]
        assert not deliveries.places.refused
        assert not set(process.bench.leases._running.values()) - {running for running, _ in process.running}
    assert "backjob retries" not in caplog.text
    assert "could not be written" not in caplog.text
