"""A cache in front of a store keeps the contract, shows ends at once and progress within a second, and serves the polls."""

from __future__ import annotations

import itertools
import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import pytest
from attrs import evolve

from backjob import BackJob
from backjob.errors import InvalidRequest, StoreUnavailable, StoreUnusable
from backjob.jobs import engine_of
from backjob.lifecycle import (
    Late,
    Requeue,
    cancelled,
    claimed,
    completed,
    continued,
    ended,
    reaped,
    requeued,
)
from backjob.model import UNSET, Changes, Draft, Expect, Job, Output, Query, Report, Request, Status
from backjob.protocols import Capability, Clock, Store, lacks, report_all_of
from backjob.signing import MessageSigner
from backjob.stores.cached import CachedStore
from backjob.stores.memory import MemoryStore
from backjob.testing import FakeClock, StoreContract
from backjob.transports.sockets import SocketTransport
from tests.unit.core import KEY

T = TypeVar("T")

PATIENCE = 30.0


# --- caches -----------------------------------------------------------------------------------------------------------


class DictCache:
    """A cache in memory that uses the test's clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.entries: dict[str, tuple[str, float]] = {}
        self.calls: Counter[str] = Counter()
        self.lock = threading.RLock()

    def get(self, key: str, /) -> Any:
        with self.lock:
            self.calls["get"] += 1
            value, until = self.entries.get(key, ("", 0.0))
            return value if until > self.clock.monotonic() else None

    def set(self, key: str, value: str, timeout: int, /) -> Any:
        with self.lock:
            self.calls["set"] += 1
            self.entries[key] = value, self.clock.monotonic() + timeout
            return True

    def add(self, key: str, value: str, timeout: int, /) -> Any:
        with self.lock:
            self.calls["add"] += 1
            if DictCache.get(self, key) is not None:
                return False
            return DictCache.set(self, key, value, timeout)

    def delete(self, key: str, /) -> Any:
        with self.lock:
            self.entries.pop(key, None)


class Dead(DictCache):
    """Fails on every call."""

    def fail(self, *_: object) -> Any:
        self.calls["any"] += 1
        raise ConnectionError("no such host: redis://:secret@cache")

    get = set = add = delete = fail


class Faulty(DictCache):
    """Fails, loses entries, ignores writes, or returns wrong values, at random."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.random = random.Random(random.random())  # Hypothesis sets the seed, so a failure can be repeated

    def fault(self) -> str:
        if self.random.random() < 0.2:
            raise OSError("at random")
        return self.random.choice(("none", "none", "none", "lost", "other"))

    def get(self, key: str, /) -> Any:
        with self.lock:
            fault = self.fault()
            if fault == "other":
                others = [value for value, _ in self.entries.values()]
                return self.random.choice([*others, "", "0 {}", "x", 5, b"\xff", "1 null", "9" * 5000 + " 1 []"])
            return super().get(key) if fault == "none" else None

    def set(self, key: str, value: str, timeout: int, /) -> Any:
        with self.lock:
            return super().set(key, value, timeout) if self.fault() == "none" else True

    def add(self, key: str, value: str, timeout: int, /) -> Any:
        with self.lock:
            return super().add(key, value, timeout) if self.fault() == "none" else True


# --- stores -----------------------------------------------------------------------------------------------------------


class Counted:
    """A store that counts its calls, and runs a callback of the test before or after the next call of a method."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.calls: Counter[str] = Counter()
        self.before: dict[str, Callable[[], None]] = {}
        self.after: dict[str, Callable[[], None]] = {}
        self.failing: set[str] = set()

    @property
    def lacks(self) -> frozenset[Capability]:
        return lacks(self.store)

    def _note(self, name: str, call: Callable[[], T]) -> T:
        self.calls[name] += 1
        self.before.pop(name, lambda: None)()
        answer = call()
        self.after.pop(name, lambda: None)()
        if name in self.failing:
            raise StoreUnavailable(f"{name}: the connection was lost before the response came")
        return answer

    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        return self._note("create", lambda: self.store.create(draft, merge_key))

    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        return self._note("get", lambda: self.store.get(job_id, body=body))

    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        return self._note("output", lambda: self.store.output(job_id, offset, limit))

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        return self._note("change", lambda: self.store.change(job_id, expect, changes))

    def report(self, job_id: str, token: str, report: Report) -> bool:
        return self._note("report", lambda: self.store.report(job_id, token, report))

    def take_due(
        self,
        lessee: str,
        lease: float,
        limit: int,
        labels: frozenset[str] | None = None,
        full: frozenset[str] = frozenset(),
        *,
        queues: frozenset[str] | None = None,
    ) -> list[Job]:
        return self._note("take_due", lambda: self.store.take_due(lessee, lease, limit, labels, full, queues=queues))

    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        return self._note("beat", lambda: self.store.beat(tokens, lease, alive))

    def find(self, query: Query) -> list[Job]:
        return self._note("find", lambda: self.store.find(query))

    def count(self, query: Query) -> int:
        return self._note("count", lambda: self.store.count(query))

    def delete(self, job_id: str) -> bool:
        return self._note("delete", lambda: self.store.delete(job_id))

    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        return self._note("purge", lambda: self.store.purge(completed_age, ended_age, labels))

    def close(self) -> None:
        self.store.close()


class Processes:
    """Several cached stores over one store; each call goes to the next one, as requests go to an application's processes.

    A report or beat reads as if the second had passed for which other readers may see the job without it.
    """

    def __init__(self, *stores: CachedStore) -> None:
        self._stores = stores
        self._turns = itertools.cycle(stores)

    @property
    def lacks(self) -> frozenset[Capability]:
        return lacks(self._stores[0])

    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        return next(self._turns).create(draft, merge_key)

    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        return next(self._turns).get(job_id, body=body)

    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        return next(self._turns).output(job_id, offset, limit)

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        return next(self._turns).change(job_id, expect, changes)

    def report(self, job_id: str, token: str, report: Report) -> bool:
        written = next(self._turns).report(job_id, token, report)
        self._a_second_later(job_id)
        return written

    def take_due(
        self,
        lessee: str,
        lease: float,
        limit: int,
        labels: frozenset[str] | None = None,
        full: frozenset[str] = frozenset(),
        *,
        queues: frozenset[str] | None = None,
    ) -> list[Job]:
        return next(self._turns).take_due(lessee, lease, limit, labels, full, queues=queues)

    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        stale = next(self._turns).beat(tokens, lease, alive)
        for job_id in tokens:
            self._a_second_later(job_id)
        return stale

    def _a_second_later(self, job_id: str) -> None:
        for store in self._stores:
            store._mark(job_id)

    def find(self, query: Query) -> list[Job]:
        return next(self._turns).find(query)

    def count(self, query: Query) -> int:
        return next(self._turns).count(query)

    def delete(self, job_id: str) -> bool:
        return next(self._turns).delete(job_id)

    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        return next(self._turns).purge(completed_age, ended_age, labels)

    def close(self) -> None:
        next(self._turns).close()


# --- the whole contract -----------------------------------------------------------------------------------------------


class TestTwoProcesses(StoreContract):
    """Each call goes to the other process, so the process that reports is often not the one that claimed."""

    examples = 15

    def make_store(self, clock: Clock) -> Store:
        store, cache = MemoryStore(clock=clock), DictCache(clock)
        return Processes(CachedStore(store, cache, clock=clock), CachedStore(store, cache, clock=clock))


@pytest.mark.slow
class TestADeadCache(StoreContract):
    only_deeper = True

    def make_store(self, clock: Clock) -> Store:
        return CachedStore(MemoryStore(clock=clock), Dead(clock), clock=clock)


@pytest.mark.nightly
class TestAFaultyCache(StoreContract):
    @pytest.fixture(autouse=True)
    def _without_a_pause(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("backjob.stores.cached.breaker._PAUSE", 0.0)

    def make_store(self, clock: Clock) -> Store:
        return Processes(CachedStore(MemoryStore(clock=clock), Faulty(clock), clock=clock))


# --- what the cache is for ----------------------------------------------------------------------------------------------


class Surroundings:
    """Two processes with a store and a cache, and a job that the first of them has claimed."""

    def __init__(self, cache: Callable[[FakeClock], DictCache] = DictCache) -> None:
        self.clock = FakeClock()
        self.inner = Counted(MemoryStore(clock=self.clock))
        self.cache = cache(self.clock)
        self.worker, self.reader = self.process(), self.process()
        self.worker.create(draft())
        job = self.worker.change("job", *claimed("token", 1, 60))
        assert job is not None
        assert self.reader.get("job") == job
        self.inner.calls.clear()
        self.cache.calls.clear()

    def process(self) -> CachedStore:
        return CachedStore(self.inner, self.cache, clock=self.clock)

    def truth(self) -> Job | None:
        return self.inner.store.get("job")


def draft(job_id: str = "job", **fields: Any) -> Draft:
    return Draft(id=job_id, **{"request": Request("GET", "/work"), **fields})


def status_of(job: Job | None) -> Status:
    assert job is not None
    return job.status


def phase_of(job: Job | None) -> tuple[Status, bool, int]:
    assert job is not None
    return job.status, job.is_waiting, job.run


@pytest.fixture
def here() -> Surroundings:
    return Surroundings()


def test_polls_by_several_processes_cost_one_read_a_second(here: Surroundings) -> None:
    readers = [here.process() for _ in range(4)]
    progress = 0
    for number in range(1000):
        here.clock.advance(0.01)
        if number % 10 == 0:
            assert here.worker.report("job", "token", Report(progress=number // 10))
        for reader in readers:
            job = reader.get("job")
            assert job is not None
            assert job.read_time == here.clock.now()
            assert progress <= job.progress, "never goes back"
            assert job.progress >= number // 10 - 10, "a second old at most"
            progress = job.progress
    assert here.inner.calls["get"] in range(9, 12)
    assert here.cache.calls["set"] == here.cache.calls["add"] == here.inner.calls["get"]


def test_a_report_does_not_call_the_cache(here: Surroundings) -> None:
    here.worker.report("job", "token", Report(progress=50))
    assert here.cache.calls.total() == 0


def test_a_beat_is_one_call_of_the_store_and_none_of_the_cache(here: Surroundings) -> None:
    here.clock.advance(0.5)
    tokens = {"job": "token", "unknown": "token"}
    assert here.worker.beat(tokens, 60, frozenset(tokens)) == {"unknown"}
    assert here.inner.calls == {"beat": 1}
    assert here.cache.calls.total() == 0
    here.clock.advance(0.5)
    job = here.reader.get("job")
    assert job == here.truth()
    assert job is not None
    assert job.lease_until == here.clock.now() + timedelta(seconds=59.5)


def test_a_process_reads_a_job_that_its_beat_found_stale_from_the_store(here: Surroundings) -> None:
    here.inner.change("job", Expect(), ended(cancelled()))  # by a process without the cache
    assert status_of(here.worker.get("job")) is Status.IN_PROGRESS
    assert here.worker.beat({"job": "token"}, 60, frozenset()) == {"job"}
    assert here.worker.get("job") == here.truth()


def test_a_lease_is_renewed_in_the_store_behind_an_old_copy(here: Surroundings) -> None:
    here.worker.beat({"job": "token"}, 1, frozenset())
    here.clock.advance(1)
    assert here.reader.get("job") == here.truth()
    here.worker.beat({"job": "token"}, 0.5, frozenset())
    here.clock.advance(0.4)
    stale = here.reader.get("job")
    here.worker.beat({"job": "token"}, 60, frozenset())
    here.clock.advance(0.2)
    assert here.reader.get("job") == here.truth(), "the copy's lease seems to be over"
    assert stale is not None
    assert here.reader.change("job", reaped(stale, Late.DEAD), ended(completed())) is None, "the store tests the lease"
    here.clock.advance(60)
    assert here.reader.change("job", reaped(stale, Late.DEAD), ended(completed())) is not None


@pytest.mark.parametrize("requeue", [continued(7), Requeue("raised", 5.0)], ids=["slice", "retry"])
def test_a_requeue_and_the_claim_of_the_next_run_show_at_once(here: Surroundings, requeue: Requeue) -> None:
    before = here.truth()
    assert before is not None
    assert here.worker.change("job", Expect(token="token"), requeued(before, requeue, here.clock.now()))
    for _ in range(3):
        for process in (here.worker, here.reader, here.process()):
            assert process.get("job") == here.truth(), "the cache has no job that waits"
        here.clock.advance(0.4)
    here.clock.advance(20)  # the mark has expired
    assert here.reader.get("job") == here.truth()
    assert here.reader.change("job", *claimed("other", 2, 60))
    for process in (here.worker, here.reader, here.process()):
        assert process.get("job") == here.truth()


@pytest.mark.parametrize("by", ["worker", "reader"])
@pytest.mark.parametrize("end", [completed(), cancelled()], ids=["completed", "cancelled"])
def test_all_processes_see_an_end_at_once(here: Surroundings, by: str, end: Any) -> None:
    process = {"worker": here.worker, "reader": here.reader}[by]
    assert process.change("job", Expect(status=Status.IN_PROGRESS), ended(end))
    for _ in range(40):
        for each in (here.worker, here.reader, here.process()):
            assert each.get("job") == here.truth()
        here.clock.advance(0.5)


def test_a_second_attempt_is_seen_at_once(here: Surroundings) -> None:
    assert here.worker.change("job", Expect(status=Status.IN_PROGRESS), AGAIN)
    assert here.reader.get("job") == here.truth()
    assert here.reader.change("job", *claimed("other", 2, 60))
    assert here.worker.get("job") == here.truth()


def test_status_and_output_of_a_printing_job_come_from_the_cache(here: Surroundings) -> None:
    with BackJob(here.reader, SocketTransport, MessageSigner(KEY), clock=here.clock) as jobs:
        engine_of(jobs).show_all()  # the job has no label
        engine_of(jobs).monitor.close()
        here.worker.report("job", "token", Report(output="ß €\n" * 20_000))
        here.clock.advance(1)
        state = jobs.status("job")
        assert len(state.status_text.encode()) in range(65_530, 65_537)
        here.inner.calls.clear()
        for _ in range(100):
            assert jobs.status("job") == state
            assert jobs.output("job", 140_000) == Output("", 140_000)
        assert here.inner.calls.total() == 0
        here.worker.report("job", "token", Report(output="more"))
        here.clock.advance(1)
        assert jobs.status("job").status_text.endswith("€\nmore")
        assert jobs.output("job", 140_000) == Output("more", 140_004)


def test_an_entry_too_large_for_a_cache_is_not_written(here: Surroundings) -> None:
    large = Request("POST", "/work", (("X-Long", "y" * (1 << 18)),))
    here.worker.create(draft("large", request=large))
    here.worker.change("large", *claimed("token", 1, 60))
    here.cache.calls.clear()
    for process in (here.worker, here.reader):
        assert process.get("large") == here.inner.store.get("large")
    assert not [key for key in here.cache.entries if key.endswith("running:large")]
    here.worker.report("job", "token", Report(text="x" * (1 << 17)))
    here.clock.advance(1)
    here.reader.get("job")
    assert max(len(entry) for entry, _ in here.cache.entries.values()) <= 1 << 17
    for _ in range(10):
        here.clock.advance(1)
        assert here.reader.get("job") == here.truth()


def test_read_times_are_the_stores_even_if_its_clock_differs() -> None:
    theirs, ours = FakeClock(), FakeClock()
    theirs.jump(12_345.678901)
    inner = MemoryStore(clock=theirs)
    store = CachedStore(inner, DictCache(ours), clock=ours)
    store.create(draft())
    store.change("job", *claimed("token", 1, 60))
    for _ in range(30):
        assert store.get("job") == inner.get("job")
        theirs.advance(0.250003)
        ours.advance(0.250003)


def test_an_overdue_copy_is_not_used(here: Surroundings) -> None:
    here.worker.create(draft("brief", error_timeout=0.6))
    here.worker.change("brief", *claimed("token", 1, 60))
    here.reader.get("brief")
    here.clock.advance(0.5)
    here.inner.beat({"brief": "token"}, 60, frozenset({"brief"}))
    here.clock.advance(0.4)
    assert here.reader.get("brief") == here.inner.store.get("brief")


def test_it_lacks_what_its_store_lacks() -> None:
    assert CachedStore(MemoryStore(), DictCache(FakeClock())).lacks == {Capability.SHARED}


def test_an_object_that_is_not_a_cache_and_a_bad_prefix_are_refused() -> None:
    with pytest.raises(StoreUnusable, match="add"):
        CachedStore(MemoryStore(), {})  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="prefix"):
        CachedStore(MemoryStore(), DictCache(FakeClock()), prefix="a b")


# --- one call during another -----------------------------------------------------------------------------------


class Gate:
    """Runs an action during a call: at the nth moment at which a store or a cache is entered or left."""

    def __init__(self) -> None:
        self.passed = 0
        self.at = -1
        self.action: Callable[[], object] = lambda: None

    def open(self, at: int, action: Callable[[], object]) -> None:
        self.passed, self.at, self.action = 0, at, action

    def step(self) -> None:
        self.passed += 1
        if self.passed - 1 == self.at:
            self.action()

    def around(self, call: Callable[[], T]) -> T:
        self.step()
        answer = call()
        self.step()
        return answer


class GatedStore(Counted):
    def __init__(self, store: Store, gate: Gate) -> None:
        super().__init__(store)
        self.gate = gate

    def _note(self, name: str, call: Callable[[], T]) -> T:
        return self.gate.around(call)


class GatedCache(DictCache):
    def __init__(self, clock: Clock, gate: Gate) -> None:
        super().__init__(clock)
        self.gate = gate

    def get(self, key: str, /) -> Any:
        return self.gate.around(lambda: super(GatedCache, self).get(key))

    def set(self, key: str, value: str, timeout: int, /) -> Any:
        return self.gate.around(lambda: super(GatedCache, self).set(key, value, timeout))

    def add(self, key: str, value: str, timeout: int, /) -> Any:
        return self.gate.around(lambda: super(GatedCache, self).add(key, value, timeout))


AGAIN = Changes(status=Status.STARTED, run=2, attempt=2, token=None, lessee=None, lease=None)

Action = Callable[[Store], object]

ACTIONS: dict[str, Action] = {
    "get": lambda store: store.get("job"),
    "output": lambda store: store.output("job"),
    "report": lambda store: store.report("job", "token", Report(progress=70, output="and more;")),
    "end": lambda store: store.change("job", Expect(status=Status.IN_PROGRESS, token="token"), ended(completed())),
    "cancel": lambda store: store.change("job", Expect(status=Status.IN_PROGRESS), ended(cancelled())),
    "lost end": lambda store: store.change("job", Expect(status=Status.IN_PROGRESS, version=1), ended(cancelled())),
    "again": lambda store: store.change("job", Expect(token="token"), AGAIN),
    "slice": lambda store: store.change("job", Expect(token="token"), evolve(AGAIN, status=UNSET)),
    "claim": lambda store: store.change("job", Expect(unclaimed=True), claimed("other", 2, 60)[1]),
    "beat": lambda store: store.beat({"job": "token"}, 60, frozenset({"job"})),
}


@pytest.mark.parametrize("age", [0.0, 1.0], ids=["cached", "not cached"])
@pytest.mark.parametrize("inner", ACTIONS)
@pytest.mark.parametrize("outer", ACTIONS)
def test_a_call_during_another_shows_the_true_phase(outer: str, inner: str, age: float) -> None:
    """Wherever a call interrupts another one, readers then see the job's phase, and within a second all of the job."""
    for is_same, at in itertools.product((False, True), range(20)):
        clock, gate = FakeClock(), Gate()
        began = clock.monotonic()
        store, cache = GatedStore(MemoryStore(clock=clock), gate), GatedCache(clock, gate)
        one, two, watcher = (CachedStore(store, cache, clock=clock) for _ in range(3))
        one.create(draft())
        one.change("job", *claimed("token", 1, 60))
        one.report("job", "token", Report(progress=30, output="some;"))
        assert two.get("job") == watcher.get("job")
        clock.advance(age)
        gate.open(at, partial(ACTIONS[inner], one if is_same else two))
        ACTIONS[outer](one)
        if gate.passed <= at:  # every moment was tried
            continue
        gate.open(-1, lambda: None)
        for later in (0, 0.5, 0.5, 0.5, 13, 1, 1):
            clock.advance(later)
            truth = store.store.get("job")
            for process in (watcher, two, one):
                found = process.get("job")
                assert phase_of(found) == phase_of(truth), f"interrupted at {at}"
                if clock.monotonic() - began >= age + 1:
                    assert found == truth, f"interrupted at {at}"
                    assert process.output("job") == store.store.output("job"), f"interrupted at {at}"


def test_a_late_reader_does_not_bring_an_ended_job_back(here: Surroundings) -> None:
    here.clock.advance(1)  # the cache has no copy
    has_read, goes_on = threading.Event(), threading.Event()

    def delay() -> None:
        has_read.set()
        assert goes_on.wait(PATIENCE)

    here.inner.after["get"] = delay
    with ThreadPoolExecutor(1) as pool:
        delayed = pool.submit(here.reader.get, "job")
        assert has_read.wait(PATIENCE)
        job = here.worker.change("job", Expect(status=Status.IN_PROGRESS, token="token"), ended(completed("done")))
        assert job is not None
        goes_on.set()
        seen = delayed.result(PATIENCE)
    assert status_of(seen) is Status.IN_PROGRESS, "it was, when the reader read it"
    processes = [here.worker, here.reader, here.process(), here.process()]
    for _ in range(40):
        assert [process.get("job") for process in processes] == [here.truth()] * 4
        here.clock.advance(0.5)


def test_no_process_shows_a_running_job_once_another_has_seen_its_end(here: Surroundings) -> None:
    delayed: list[Callable[[], object]] = []

    class Delaying(DictCache):
        def add(self, key: str, value: str, timeout: int, /) -> Any:
            delayed.append(partial(here.cache.add, key, value, timeout))

    late_cache = Delaying(here.clock)
    late_cache.entries = here.cache.entries
    late = CachedStore(here.inner, late_cache, clock=here.clock)

    def before_the_write() -> None:
        assert status_of(late.get("job")) is Status.IN_PROGRESS

    def after_the_write() -> None:
        assert here.process().get("job") == here.truth()
        for add in delayed:
            add()
        assert here.process().get("job") == here.truth()

    here.clock.advance(1)  # the cache has no copy
    here.inner.before["change"], here.inner.after["change"] = before_the_write, after_the_write
    assert here.worker.change("job", Expect(status=Status.IN_PROGRESS), ended(completed()))
    assert len(delayed) == 1


def test_a_reader_slower_than_a_second_adds_no_copy(here: Surroundings) -> None:
    here.clock.advance(1)
    here.inner.after["get"] = lambda: here.clock.advance(1)
    here.reader.get("job")
    assert here.cache.calls["add"] == 0


@pytest.mark.parametrize("seconds", [0.5, 4.0, 5.1, 14.0, 20.0])
def test_copies_made_during_a_long_write_are_not_used_after_it(here: Surroundings, seconds: float) -> None:
    def meanwhile() -> None:
        here.clock.advance(seconds)
        here.process().get("job")

    here.inner.before["change"] = meanwhile
    assert here.reader.change("job", Expect(status=Status.IN_PROGRESS), ended(cancelled()))
    for _ in range(10):
        assert here.worker.get("job") == here.truth()
        assert here.reader.get("job") == here.truth()
        here.clock.advance(0.5)


# --- a cache that does not work -----------------------------------------------------------------------------------------


def test_a_dead_cache_is_tried_every_five_seconds(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    cache = Dead(clock)
    store = CachedStore(MemoryStore(clock=clock), cache, clock=clock)
    with caplog.at_level(logging.DEBUG, "backjob"):
        store.create(draft())
        store.change("job", *claimed("token", 1, 60))
        for _ in range(100):
            clock.advance(0.04)
            assert store.get("job") is not None
        assert cache.calls["any"] == 1
        for _ in range(100):
            clock.advance(0.5)
            store.get("job")
        assert cache.calls["any"] <= 11
    assert [record.levelname for record in caplog.records] == ["WARNING"], "one line for one outage"
    assert "secret" not in caplog.text


def test_one_of_many_callers_tries_a_dead_cache() -> None:
    class Trying(Dead):
        def fail(self, *arguments: object) -> Any:
            if self.calls["any"] == 1:
                clock.advance(0.5)
                store.get("job")  # another thread, while this one waits
            return super().fail(*arguments)

        get = set = add = delete = fail

    clock = FakeClock()
    cache = Trying(clock)
    store = CachedStore(MemoryStore(clock=clock), cache, clock=clock)
    store.create(draft())
    store.get("job")
    clock.advance(5)
    store.get("job")
    assert cache.calls["any"] == 2


def test_a_cache_that_comes_back_is_used_again(here: Surroundings, caplog: pytest.LogCaptureFixture) -> None:
    broken = True

    def fail_or_not(name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if broken:
                raise OSError
            return getattr(DictCache, name)(here.cache, *arguments)

        return call

    for name in ("get", "set", "add"):
        setattr(here.cache, name, fail_or_not(name))
    assert here.reader.get("job") == here.truth()
    broken = False
    here.clock.advance(5)
    here.inner.calls.clear()
    with caplog.at_level(logging.INFO, "backjob"):
        for _ in range(10):
            assert here.reader.get("job") == here.truth()
    assert here.inner.calls["get"] == 1
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_slow_cache_is_skipped_too(caplog: pytest.LogCaptureFixture) -> None:
    class Slow(DictCache):
        def get(self, key: str, /) -> Any:
            clock.advance(2)
            return super().get(key)

    clock = FakeClock()
    cache = Slow(clock)
    store = CachedStore(MemoryStore(clock=clock), cache, clock=clock)
    store.create(draft())
    before = clock.monotonic()
    for _ in range(50):
        store.get("job")
    assert clock.monotonic() - before == 2
    assert "2.0 s" in caplog.text


def test_an_end_written_without_the_cache_shows_within_a_second(here: Surroundings) -> None:
    here.inner.change("job", Expect(), ended(cancelled()))
    assert status_of(here.reader.get("job")) is Status.IN_PROGRESS
    here.clock.advance(1)
    assert here.reader.get("job") == here.truth()


def test_a_process_that_has_seen_an_end_reads_the_store_whatever_the_cache_has(here: Surroundings) -> None:
    (copy,) = here.cache.entries.items()
    assert here.worker.change("job", Expect(token="token"), ended(completed()))
    assert here.worker.get("job") == here.reader.get("job") == here.truth()
    here.cache.entries.update([copy])
    here.cache.calls.clear()
    for process in (here.worker, here.reader):
        assert process.get("job") == here.truth()
        assert process.output("job") == Output("", 0)
        assert here.cache.calls.total() == 0


def test_the_process_that_wrote_an_end_shows_it_even_if_the_cache_was_dead(
    here: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(here.cache, "set", Dead(here.clock).fail)
    here.inner.failing = {"change"}
    with pytest.raises(StoreUnavailable):  # the write was made, but its response was lost
        here.worker.change("job", Expect(token="token"), ended(completed()))
    here.inner.failing = set()
    assert here.worker.get("job") == here.truth()
    here.clock.advance(1)
    assert here.reader.get("job") == here.truth()


def test_a_refused_report_makes_all_processes_read_the_store(here: Surroundings) -> None:
    here.inner.change("job", Expect(), ended(cancelled()))  # by a process without the cache
    assert not here.worker.report("job", "token", Report(progress=50))
    assert here.worker.get("job") == here.truth()
    assert here.reader.get("job") == here.truth()


def test_a_refused_report_among_others_makes_all_processes_read_the_store(
    here: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert report_all_of(here.worker) is None
    calls: list[int] = []

    def report_all(reports: Sequence[tuple[str, str, Report]]) -> list[bool]:
        calls.append(len(reports))
        return [here.inner.report(*each) for each in reports]

    monkeypatch.setattr(here.inner, "report_all", report_all, raising=False)
    here.inner.change("job", Expect(), ended(cancelled()))  # by a process without the cache
    write = report_all_of(here.worker)
    assert write is not None
    assert write([("other", "token", Report()), ("job", "token", Report(progress=50))]) == [False, False]
    assert calls == [2]
    assert here.worker.get("job") == here.truth()
    assert here.reader.get("job") == here.truth()


class Stuck(DictCache):
    """Keeps the first value of each key for ever."""

    def set(self, key: str, value: str, timeout: int, /) -> Any:
        if key not in self.entries:
            super().set(key, value, 10**9)


def test_claims_and_ends_are_the_stores_even_if_the_cache_is_stuck() -> None:
    here = Surroundings(Stuck)
    here.inner.change("job", Expect(), ended(cancelled()))
    stale = here.reader.get("job")
    assert stale is not None
    assert stale.status is Status.IN_PROGRESS
    here.inner.calls.clear()
    assert here.reader.change("job", *claimed("mine", 1, 60)) is None
    assert here.reader.change("job", Expect(status=stale.status, version=stale.version), ended(completed())) is None
    assert not here.reader.report("job", "token", Report(progress=1))
    assert here.reader.beat({"job": "token"}, 60, frozenset()) == {"job"}
    assert here.inner.calls == {"change": 2, "report": 1, "beat": 1}
    assert here.reader.get("job") == here.truth(), "a lost change shows that the copy is stale"


def test_a_copy_that_should_have_expired_is_not_used() -> None:
    here = Surroundings(Stuck)
    here.inner.change("job", Expect(), ended(cancelled()))
    here.clock.advance(5)
    assert here.reader.get("job") == here.truth()


def test_a_copy_of_another_job_is_not_used(here: Surroundings) -> None:
    here.worker.create(draft("other"))
    here.worker.change("other", *claimed("token", 1, 60))
    for job_id, text in (("job", "one"), ("other", "two")):
        here.worker.report(job_id, "token", Report(output=text))
    here.clock.advance(1)
    for job_id in ("job", "other"):
        here.reader.get(job_id)
        here.reader.output(job_id)
    for kind in ("end", "running"):
        entries = {key: entry for key, entry in here.cache.entries.items() if kind in key}
        assert len(entries) == 2
        here.cache.entries |= dict(zip(entries, reversed(entries.values()), strict=True))
        assert here.reader.output("job").text == "one"
        assert here.reader.get("job") == here.truth()


@pytest.mark.parametrize("cut", [6, 14, 20, 100])
def test_truncated_output_is_not_used(here: Surroundings, cut: int) -> None:
    here.worker.report("job", "token", Report(output="some output", truncated=True, tail="some tail"))
    here.clock.advance(1)
    here.reader.get("job")
    here.reader.output("job")
    (key,) = [key for key in here.cache.entries if "end" in key]
    entry, until = here.cache.entries[key]
    here.cache.entries[key] = entry[:-cut], until
    assert here.reader.output("job") == Output("some output", 11, truncated=True, tail="some tail")


def test_polls_of_a_tail_cost_one_read_a_second_and_show_a_new_one(here: Surroundings) -> None:
    readers = [here.process() for _ in range(4)]
    for number in range(3):
        here.worker.report("job", "token", Report(output="x" if number == 0 else "", truncated=True, tail=f"{number}"))
        here.clock.advance(1)
        here.inner.calls.clear()
        for offset in (0, 1):
            for reader in readers:
                reader.get("job")
                text = "x"[offset:]
                assert reader.output("job", offset) == Output(text, 1, truncated=True, tail=f"{number}")
        assert here.inner.calls == {"get": 1, "output": 2}


def test_a_deleted_job_is_unknown_at_once(here: Surroundings) -> None:
    here.worker.report("job", "token", Report(output="some output"))
    here.clock.advance(1)
    assert here.reader.get("job") is not None
    assert here.process().delete("job") is True
    for reader in (here.worker, here.reader, here.process()):
        assert reader.get("job") is None
        assert reader.output("job") == Output("", 0)


def test_a_slow_read_does_not_bring_a_deleted_job_back(here: Surroundings) -> None:
    other = here.process()
    here.clock.advance(1)
    here.inner.after["get"] = lambda: None if other.delete("job") else pytest.fail("it was there")
    assert here.reader.get("job") is not None, "it was there when the store was read"
    for reader in (here.worker, here.reader, here.process()):
        assert reader.get("job") is None


def test_cancel_ends_over_a_stale_copy_after_one_attempt() -> None:
    here = Surroundings(Stuck)
    here.inner.change("job", Expect(), ended(completed()))
    here.inner.calls.clear()
    with BackJob(here.reader, SocketTransport, MessageSigner(KEY), clock=here.clock) as jobs:
        engine_of(jobs).show_all()  # the job has no label
        engine_of(jobs).monitor.close()
        assert jobs.cancel("job") is False
        assert jobs.status("job").status is Status.COMPLETED
    assert here.inner.calls["change"] == 1
