"""A cache in front of a store changes nothing that anybody can see, whatever the cache does; and it takes the polls."""

from __future__ import annotations

import itertools
import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, Final, TypeVar
from uuid import uuid4

import pytest
import redis
from cachelib import FileSystemCache, RedisCache

from backjob import BackJob
from backjob.errors import InvalidRequest, StoreUnavailable, StoreUnusable
from backjob.lifecycle import cancelled, claimed, completed, ended
from backjob.model import Changes, Draft, Expect, Job, Output, Query, Report, Request, Status
from backjob.protocols import Capability, Clock, Store, lacks
from backjob.signing import MessageSigner
from backjob.stores.cached import CachedStore
from backjob.stores.memory import MemoryStore
from backjob.stores.sqlite import SQLiteStore
from backjob.testing import FakeClock, StoreContract
from backjob.transports.sockets import SocketTransport
from tests.services import REDIS, own_name
from tests.unit.core import KEY

T = TypeVar("T")

PATIENCE = 30.0


# --- caches -----------------------------------------------------------------------------------------------------------


class DictCache:
    """A cache as it should be; its time is the test's."""

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


class Forgetful(DictCache):
    """Accepts everything, and has lost it at once."""

    def get(self, key: str, /) -> Any:
        super().get(key)
        return None

    def add(self, key: str, value: str, timeout: int, /) -> Any:
        self.calls["add"] += 1
        return True


class Whimsical(DictCache):
    """Fails, loses, does nothing, or answers with something else, at random."""

    def __init__(self, clock: Clock, errors: float) -> None:
        super().__init__(clock)
        self.random = random.Random(random.random())  # Hypothesis sets the seed, so that a failure comes again
        self.errors = errors

    def whim(self) -> str:
        if self.random.random() < self.errors:
            raise OSError("on a whim")
        return self.random.choice(("works", "works", "works", "lost", "other"))

    def get(self, key: str, /) -> Any:
        with self.lock:
            whim = self.whim()
            if whim == "other":
                others = [value for value, _ in self.entries.values()]
                return self.random.choice([*others, "", "0 {}", "x", 5, b"\xff", "1 null", "9" * 5000 + " []"])
            return super().get(key) if whim == "works" else None

    def set(self, key: str, value: str, timeout: int, /) -> Any:
        with self.lock:
            return super().set(key, value, timeout) if self.whim() == "works" else True

    def add(self, key: str, value: str, timeout: int, /) -> Any:
        with self.lock:
            return super().add(key, value, timeout) if self.whim() == "works" else True


# --- stores -----------------------------------------------------------------------------------------------------------


class Counted:
    """A store that counts what is asked of it, and lets a test stand in the way of a call."""

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
            raise StoreUnavailable(f"{name}: the connection was lost before the answer came")
        return answer

    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        return self._note("create", lambda: self.store.create(draft, merge_key))

    def get(self, job_id: str) -> Job | None:
        return self._note("get", lambda: self.store.get(job_id))

    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        return self._note("output", lambda: self.store.output(job_id, offset, limit))

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        return self._note("change", lambda: self.store.change(job_id, expect, changes))

    def report(self, job_id: str, token: str, report: Report) -> bool:
        return self._note("report", lambda: self.store.report(job_id, token, report))

    def take_due(self, lessee: str, lease: float, limit: int) -> list[Job]:
        return self._note("take_due", lambda: self.store.take_due(lessee, lease, limit))

    def beat(self, tokens: Mapping[str, str]) -> None:
        self._note("beat", lambda: self.store.beat(tokens))

    def find(self, query: Query) -> list[Job]:
        return self._note("find", lambda: self.store.find(query))

    def purge(self, completed_age: float, ended_age: float) -> int:
        return self._note("purge", lambda: self.store.purge(completed_age, ended_age))

    def close(self) -> None:
        self.store.close()


class Processes:
    """Several stores over one, of which each call goes to another, as an application's processes get its requests.

    ``writer`` and ``reader`` say how the next store is found; by default they take turns in everything.
    """

    def __init__(self, *stores: Store, split: bool = False) -> None:
        turns = itertools.cycle(stores)
        self.writer: Callable[[], Store] = (lambda: stores[0]) if split else (lambda: next(turns))
        self.reader: Callable[[], Store] = (lambda: stores[-1]) if split else (lambda: next(turns))

    @property
    def lacks(self) -> frozenset[Capability]:
        return lacks(self.reader())

    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        return self.writer().create(draft, merge_key)

    def get(self, job_id: str) -> Job | None:
        return self.reader().get(job_id)

    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        return self.reader().output(job_id, offset, limit)

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        return self.writer().change(job_id, expect, changes)

    def report(self, job_id: str, token: str, report: Report) -> bool:
        return self.writer().report(job_id, token, report)

    def take_due(self, lessee: str, lease: float, limit: int) -> list[Job]:
        return self.writer().take_due(lessee, lease, limit)

    def beat(self, tokens: Mapping[str, str]) -> None:
        self.writer().beat(tokens)

    def find(self, query: Query) -> list[Job]:
        return self.reader().find(query)

    def purge(self, completed_age: float, ended_age: float) -> int:
        return self.writer().purge(completed_age, ended_age)

    def close(self) -> None:
        self.reader().close()


# --- the whole contract -----------------------------------------------------------------------------------------------


@pytest.mark.slow
class TestInFrontOfMemory(StoreContract):
    def make_store(self, clock: Clock) -> Store:
        return CachedStore(MemoryStore(clock=clock), DictCache(clock), clock=clock)


@pytest.mark.slow
class TestInFrontOfSQLite(StoreContract):
    """With a cache that forked children share, and whose ``add`` is not atomic."""

    only_deeper = True

    def make_store(self, clock: Clock) -> Store:
        path = self.directory / f"{uuid4()}"
        cache = FileSystemCache(str(path.with_suffix(".cache")), threshold=0)
        return CachedStore(SQLiteStore(path.with_suffix(".db"), clock=clock), cache, clock=clock)


class TestTwoProcessesInTurn(StoreContract):
    """Each call is another process's: whoever reports is as often as not somebody else than who claimed."""

    def make_store(self, clock: Clock) -> Store:
        store, cache = MemoryStore(clock=clock), DictCache(clock)
        return Processes(CachedStore(store, cache, clock=clock), CachedStore(store, cache, clock=clock))


@pytest.mark.slow
class TestOneProcessWritesAnotherReads(StoreContract):
    def make_store(self, clock: Clock) -> Store:
        store, cache = MemoryStore(clock=clock), DictCache(clock)
        processes = (CachedStore(store, cache, clock=clock), CachedStore(store, cache, clock=clock))
        return Processes(*processes, split=True)


@pytest.mark.slow
class TestADeadCache(StoreContract):
    only_deeper = True

    def make_store(self, clock: Clock) -> Store:
        return CachedStore(MemoryStore(clock=clock), Dead(clock), clock=clock)


@pytest.mark.slow
class TestACacheThatLosesEverything(StoreContract):
    only_deeper = True

    def make_store(self, clock: Clock) -> Store:
        return CachedStore(MemoryStore(clock=clock), Forgetful(clock), clock=clock)


@pytest.mark.slow
class TestAWhimsicalCache(StoreContract):
    """It never raises, so that it is always asked."""

    errors = 0.0

    def make_store(self, clock: Clock) -> Store:
        return CachedStore(MemoryStore(clock=clock), Whimsical(clock, self.errors), clock=clock)


@pytest.mark.slow
class TestACacheThatFailsNowAndThen(TestAWhimsicalCache):
    errors = 0.2

    @pytest.fixture(autouse=True)
    def _without_a_pause(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("backjob.stores.cached.breaker._PAUSE", 0.0)


@cache
def redis_client() -> redis.Redis:
    return redis.Redis.from_url(REDIS.require())


OWN_NAME: Final = own_name()


@pytest.fixture(scope="module", autouse=True)
def _redis_is_left_as_it_was() -> Iterator[None]:
    yield
    if redis_client.cache_info().currsize:
        for key in redis_client().scan_iter(f"{OWN_NAME}*", count=1000):
            redis_client().delete(key)
        redis_client().close()


@pytest.mark.slow
class TestTwoProcessesInTurnWithRedis(StoreContract):
    examples, race_examples = 15, 5

    def make_store(self, clock: Clock) -> Store:
        store, prefix = MemoryStore(clock=clock), f"{OWN_NAME}:{uuid4().hex}:"
        cache = RedisCache(redis_client())
        return Processes(*[CachedStore(store, cache, prefix=prefix, clock=clock) for _ in range(2)])


# --- what the cache is for ----------------------------------------------------------------------------------------------


class Surroundings:
    """Two processes with a store and a cache, and a job that the first of them has claimed."""

    def __init__(self, cache: Callable[[FakeClock], DictCache] = DictCache) -> None:
        self.clock = FakeClock()
        self.inner = Counted(MemoryStore(clock=self.clock))
        self.cache = cache(self.clock)
        self.worker, self.reader = self.process(), self.process()
        self.worker.create(draft())
        job = self.worker.change("job", *claimed("token"))
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


@pytest.fixture
def here() -> Surroundings:
    return Surroundings()


def test_a_thousand_polls_cost_a_handful_of_reads(here: Surroundings) -> None:
    for number in range(1000):
        here.clock.advance(0.01)
        if number % 10 == 0:
            assert here.worker.report("job", "token", Report(progress=number // 10, text=f"at {number}"))
        found = here.reader.get("job")
        assert found == here.truth()
    assert here.inner.calls["report"] == 100
    assert here.inner.calls["get"] <= 5, "one for each 2.5 s in which the job reports"


def test_polls_of_a_silent_job_cost_a_read_in_five_seconds(here: Surroundings) -> None:
    readers = [here.process() for _ in range(4)]
    for reader in readers:
        reader.get("job")  # each has to learn the time of the store
    here.inner.calls.clear()
    for _ in range(250):
        here.clock.advance(0.04)
        for reader in readers:
            found = reader.get("job")
            assert found == here.truth()
    assert here.inner.calls["get"] <= 3


def test_a_job_that_prints_is_watched_without_the_store(here: Surroundings) -> None:
    with BackJob(here.reader, SocketTransport, MessageSigner(KEY), clock=here.clock) as jobs:
        jobs.monitor.close()
        here.worker.report("job", "token", Report(output="ß €\n" * 20_000))
        state = jobs.status("job")
        assert len(state.status_text.encode()) in range(65_530, 65_537)
        here.inner.calls.clear()
        for _ in range(100):
            assert jobs.status("job") == state
            assert jobs.output("job", 140_000) == Output("", 140_000)
        assert here.inner.calls.total() == 0
        here.worker.report("job", "token", Report(output="more"))
        assert jobs.status("job").status_text.endswith("€\nmore")
        assert jobs.output("job", 140_000) == Output("more", 140_004)


def test_what_is_too_large_for_a_cache_is_not_in_it(here: Surroundings) -> None:
    large = Request("POST", "/work", body=bytes(1 << 18))
    here.worker.create(draft("large", request=large))
    here.worker.change("large", *claimed("token"))
    here.cache.calls.clear()
    for process in (here.worker, here.reader):
        assert process.get("large") == here.inner.store.get("large")
    assert not [key for key in here.cache.entries if key.endswith("running:large")]
    here.worker.report("job", "token", Report(text="x" * (1 << 17)))
    assert max(len(entry) for entry, _ in here.cache.entries.values()) <= 1 << 17
    for _ in range(10):
        here.clock.advance(1)
        assert here.reader.get("job") == here.truth()


def test_the_stores_time_is_told_though_it_is_another_than_ours() -> None:
    theirs, ours = FakeClock(), FakeClock()
    theirs.jump(12_345.678901)
    inner = MemoryStore(clock=theirs)
    cache = DictCache(ours)
    worker, reader = CachedStore(inner, cache, clock=ours), CachedStore(inner, cache, clock=ours)
    worker.create(draft())
    worker.change("job", *claimed("token"))
    reader.get("nobody")
    for number in range(30):
        theirs.advance(1.250003)
        ours.advance(1.250003)
        worker.report("job", "token", Report(progress=number))
        assert reader.get("job") == inner.get("job")
    theirs.jump(-3600)  # somebody set the server's clock
    for number in range(30, 40):
        worker.report("job", "token", Report(progress=number))
        theirs.advance(1)
        ours.advance(1)
    assert reader.get("job") == inner.get("job"), "it is learnt again"


def test_a_copy_that_looks_overdue_is_not_believed(here: Surroundings) -> None:
    here.worker.create(draft("brief", error_timeout=2))
    here.worker.change("brief", *claimed("token"))
    here.reader.get("brief")
    here.clock.advance(2)
    here.inner.beat({"brief": "token"})  # by a process without the cache
    here.clock.advance(1)
    assert here.reader.get("brief") == here.inner.store.get("brief")


def test_what_it_lacks_is_what_its_store_lacks() -> None:
    assert CachedStore(MemoryStore(), DictCache(FakeClock())).lacks == {Capability.SHARED}


def test_what_is_no_cache_or_no_prefix_is_refused() -> None:
    with pytest.raises(StoreUnusable, match="add"):
        CachedStore(MemoryStore(), {})  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="prefix"):
        CachedStore(MemoryStore(), DictCache(FakeClock()), prefix="a b")


# --- one call in the midst of another -----------------------------------------------------------------------------------


class Gate:
    """Runs something in the midst of a call: at the nth moment at which a store or a cache is entered or left."""

    def __init__(self) -> None:
        self.passed = 0
        self.at = -1
        self.deed: Callable[[], object] = lambda: None

    def open(self, at: int, deed: Callable[[], object]) -> None:
        self.passed, self.at, self.deed = 0, at, deed

    def step(self) -> None:
        self.passed += 1
        if self.passed - 1 == self.at:
            self.deed()

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


Deed = Callable[[Store], object]

DEEDS: dict[str, Deed] = {
    "get": lambda store: store.get("job"),
    "output": lambda store: store.output("job"),
    "report": lambda store: store.report("job", "token", Report(progress=41, output="and more;")),
    "another report": lambda store: store.report("job", "token", Report(progress=70, text="text")),
    "beat": lambda store: store.beat({"job": "token"}),
    "end": lambda store: store.change("job", Expect(status=Status.IN_PROGRESS, token="token"), ended(completed())),
    "cancel": lambda store: store.change("job", Expect(status=Status.IN_PROGRESS), ended(cancelled())),
    "lost end": lambda store: store.change("job", Expect(status=Status.IN_PROGRESS, version=1), ended(cancelled())),
    "again": lambda store: store.change(
        "job", Expect(status=Status.IN_PROGRESS), Changes(status=Status.STARTED, attempt=2, lessee=None, lease=None)
    ),
    "claim": lambda store: store.change("job", *claimed("other")),
}


USUAL: Final = {
    ("get", "cancel"),
    ("get", "end"),
    ("get", "report"),
    ("report", "cancel"),
    ("report", "report"),
    ("beat", "report"),
    ("end", "get"),
}
PAIRS: Final = [
    pytest.param(outer, inner, marks=[] if (outer, inner) in USUAL else pytest.mark.slow, id=f"{inner} in {outer}")
    for outer in DEEDS
    for inner in DEEDS
]


@pytest.mark.parametrize("age", [0.0, 3.0, 6.0])
@pytest.mark.parametrize("processes", ["one and itself", "one and another", "another and one"])
@pytest.mark.parametrize(("outer", "inner"), PAIRS)
def test_a_call_in_the_midst_of_another_leaves_the_truth(outer: str, inner: str, processes: str, age: float) -> None:
    """Wherever one call is interrupted by another one, nobody reads afterwards what was overtaken.

    The job is the one process's own. ``age`` is that of the copy in the cache: fresh, to be confirmed, or gone.
    """
    for at in itertools.count():
        clock, gate = FakeClock(), Gate()
        store, cache = GatedStore(MemoryStore(clock=clock), gate), GatedCache(clock, gate)
        one, two, watcher = (CachedStore(store, cache, clock=clock) for _ in range(3))
        one.create(draft())
        one.change("job", *claimed("token"))
        one.report("job", "token", Report(progress=30, output="some;"))
        assert two.get("job") == watcher.get("job")
        clock.advance(age)
        first, second = {
            "one and itself": (one, one),
            "one and another": (one, two),
            "another and one": (two, one),
        }[processes]
        gate.open(at, partial(DEEDS[inner], second))
        DEEDS[outer](first)
        interrupted = gate.passed > at
        gate.open(-1, lambda: None)
        for elapsed in range(18):
            for process in (watcher, two, one):
                assert process.get("job") == store.store.get("job"), f"interrupted at {at}, {elapsed} s later"
                assert process.output("job") == store.store.output("job"), f"interrupted at {at}, {elapsed} s later"
            clock.advance(1)
            if elapsed == 8:
                one.report("job", "token", Report(progress=elapsed))
        if not interrupted:
            assert at > 1
            break


def test_a_reader_that_was_held_up_does_not_bring_an_ended_job_back(here: Surroundings) -> None:
    here.clock.advance(5)  # the copy in the cache is gone
    has_read, goes_on = threading.Event(), threading.Event()

    def hold_up() -> None:
        has_read.set()
        assert goes_on.wait(PATIENCE)

    here.inner.after["get"] = hold_up
    with ThreadPoolExecutor(1) as pool:
        held_up = pool.submit(here.reader.get, "job")
        assert has_read.wait(PATIENCE)
        job = here.worker.change("job", Expect(status=Status.IN_PROGRESS, token="token"), ended(completed("done")))
        assert job is not None
        goes_on.set()
        seen = held_up.result(PATIENCE)
    assert seen is not None
    assert seen.status is Status.IN_PROGRESS, "it was, when the reader looked"
    processes = [here.worker, here.reader, here.process(), here.process()]
    processes[2].get("nobody")
    for _ in range(40):
        assert [process.get("job") for process in processes] == [here.truth()] * 4
        here.clock.advance(0.5)


def test_a_reader_that_was_slow_does_not_bring_back_what_was_overtaken(here: Surroundings) -> None:
    def meanwhile() -> None:
        assert here.worker.report("job", "token", Report(progress=50))
        here.clock.advance(3.2)  # what the worker put there is gone

    here.clock.advance(2)
    here.cache.entries.clear()  # it had to make room
    here.inner.after["get"] = meanwhile
    here.reader.get("job")
    assert here.reader.get("job") == here.truth()


def test_a_write_that_takes_long_is_not_overtaken_by_copies_made_meanwhile(here: Surroundings) -> None:
    def meanwhile() -> None:
        here.clock.advance(20)
        here.process().get("job")

    here.inner.before["change"] = meanwhile
    assert here.reader.change("job", Expect(status=Status.IN_PROGRESS), ended(cancelled()))
    for _ in range(10):
        assert here.worker.get("job") == here.truth()
        assert here.reader.get("job") == here.truth()
        here.clock.advance(0.5)


def test_what_is_reported_while_a_job_is_shut_is_not_overtaken_by_what_was_before() -> None:
    """Its own process leaves the cache alone for a while; whenever it falls silent, no copy made meanwhile is shown."""
    for silent_from in range(0, 180, 3):
        here = Surroundings()
        assert here.worker.change("job", Expect(version=1), Changes(progress=1)) is None
        for tenths in range(0, 250, 3):
            if tenths < silent_from:
                assert here.worker.report("job", "token", Report(progress=tenths // 3))
            found = here.reader.get("job")
            assert found == here.truth(), f"silent from {silent_from / 10} s, at {tenths / 10} s"
            here.clock.advance(0.3)


# --- a cache that is no help --------------------------------------------------------------------------------------------


def test_a_dead_cache_is_asked_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    cache = Dead(clock)
    store = CachedStore(MemoryStore(clock=clock), cache, clock=clock)
    with caplog.at_level(logging.DEBUG, "backjob"):
        store.create(draft())
        store.change("job", *claimed("token"))
        for _ in range(100):
            clock.advance(0.04)
            assert store.report("job", "token", Report(progress=1))
            assert store.get("job") is not None
        assert cache.calls["any"] == 1
        for _ in range(100):
            clock.advance(0.5)
            store.report("job", "token", Report(progress=1))
        assert cache.calls["any"] <= 11
    assert [record.levelname for record in caplog.records] == ["WARNING"], "one line for one outage"
    assert "secret" not in caplog.text


def test_of_many_callers_one_tries_whether_a_dead_cache_is_back() -> None:
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
    assert here.worker.report("job", "token", Report(progress=50))
    assert here.reader.get("job") == here.truth()
    broken = False
    here.clock.advance(20)
    assert here.worker.report("job", "token", Report(progress=60))
    here.inner.calls.clear()
    here.reader.get("job")
    assert here.reader.get("job") == here.truth()
    assert here.inner.calls["get"] <= 1
    assert caplog.text.count("without the cache") == 2, "one line from each process"


def test_a_slow_cache_is_left_alone_too(caplog: pytest.LogCaptureFixture) -> None:
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


@pytest.mark.parametrize("beats_for", [0.0, 2.4, 10.0])
def test_a_copy_that_nobody_took_back_is_shown_for_five_seconds_at_most(here: Surroundings, beats_for: float) -> None:
    """Its own process believes for a while that the job runs, and says so."""
    here.inner.change("job", Expect(), ended(cancelled()))  # by a process without the cache
    late = Counter[str]()
    for tenths in range(1, 100):
        here.clock.advance(0.1)
        if tenths / 10 <= beats_for:
            here.worker.beat({"job": "token"})
        for name, process in (("reader", here.reader), ("worker", here.worker)):
            job = process.get("job")
            assert job is not None
            late[name] += job.status is Status.IN_PROGRESS
    assert 0 < late["reader"] < 50
    assert late["worker"] < 50


def test_a_report_that_is_refused_tells_all_processes_of_the_end(here: Surroundings) -> None:
    here.inner.change("job", Expect(), ended(cancelled()))  # by a process without the cache
    assert not here.worker.report("job", "token", Report(progress=50))
    assert here.worker.get("job") == here.truth()
    assert here.reader.get("job") == here.truth()


def test_polls_of_a_job_that_has_ended_cost_the_cache_nothing(here: Surroundings) -> None:
    here.worker.change("job", Expect(token="token"), ended(completed()))
    for process in (here.worker, here.reader):
        assert process.get("job") == here.truth()
        here.cache.calls.clear()
        process.get("job")
        process.output("job")
        assert here.cache.calls.total() == 0


class Liar(DictCache):
    """Shows for ever what it was told first, and no mark."""

    def get(self, key: str, /) -> Any:
        return None if "shut" in key else super().get(key)

    def set(self, key: str, value: str, timeout: int, /) -> Any:
        if key not in self.entries:
            super().set(key, value, 10**9)


def test_claims_and_ends_are_the_stores_though_the_cache_lies() -> None:
    here = Surroundings(Liar)
    here.inner.change("job", Expect(), ended(cancelled()))
    asked = here.reader.get("job")
    assert asked is not None
    assert asked.status is Status.IN_PROGRESS, "it lies"
    here.inner.calls.clear()
    assert here.reader.change("job", *claimed("mine")) is None
    assert here.reader.change("job", Expect(status=asked.status, version=asked.version), ended(completed())) is None
    assert not here.reader.report("job", "token", Report(progress=1))
    here.reader.beat({"job": "token"})
    assert here.inner.calls == {"change": 2, "report": 1, "beat": 1}
    assert here.reader.get("job") == here.truth(), "what was lost shows that the cache is wrong"


def test_a_copy_that_should_be_gone_is_not_believed() -> None:
    here = Surroundings(Liar)
    here.inner.change("job", Expect(), ended(cancelled()))
    here.clock.advance(5)
    assert here.reader.get("job") == here.truth()


def test_a_process_knows_better_than_an_old_copy_of_its_own_job() -> None:
    here = Surroundings(Liar)
    for progress in (10, 20, 30):
        assert here.worker.report("job", "token", Report(progress=progress))
        assert here.worker.get("job") == here.truth()


def test_what_is_another_jobs_is_not_taken_for_this_ones(here: Surroundings) -> None:
    here.worker.create(draft("other"))
    here.worker.change("other", *claimed("token"))
    for job_id, text in (("job", "one"), ("other", "two")):
        here.worker.report(job_id, "token", Report(output=text))
        here.reader.output(job_id)
    for kind in ("tail", "running"):
        entries = {key: entry for key, entry in here.cache.entries.items() if kind in key}
        assert len(entries) == 2
        here.cache.entries |= dict(zip(entries, reversed(entries.values()), strict=True))
        assert here.reader.output("job").text == "one"
        assert here.reader.get("job") == here.truth()


def test_output_that_was_cut_on_its_way_is_not_believed(here: Surroundings) -> None:
    here.worker.report("job", "token", Report(output="some output"))
    here.reader.output("job")
    for key, (entry, until) in list(here.cache.entries.items()):
        if "tail" in key:
            here.cache.entries[key] = entry[:-6], until
    assert here.reader.output("job").text == "some output"


def test_cancelling_does_not_go_round_in_circles_over_a_stale_copy() -> None:
    here = Surroundings(Liar)
    here.inner.change("job", Expect(), ended(completed()))
    here.inner.calls.clear()
    with BackJob(here.reader, SocketTransport, MessageSigner(KEY), clock=here.clock) as jobs:
        jobs.monitor.close()
        assert jobs.cancel("job") is False
        assert jobs.status("job").status is Status.COMPLETED
    assert here.inner.calls["change"] == 1


@pytest.mark.parametrize("is_cache_dead", [False, True])
@pytest.mark.parametrize("name", ["report", "beat", "change"])
def test_after_a_write_of_unknown_outcome_the_store_is_asked(
    here: Surroundings, name: str, is_cache_dead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    deeds: dict[str, Deed] = {"report": DEEDS["report"], "beat": DEEDS["beat"], "change": DEEDS["end"]}
    here.worker.report("job", "token", Report(progress=5))
    if is_cache_dead:
        monkeypatch.setattr(here.cache, "set", Dead(here.clock).fail)
    here.clock.advance(1)
    here.inner.failing = {name}
    with pytest.raises(StoreUnavailable):
        deeds[name](here.worker)
    here.inner.failing = set()
    for _ in range(30):
        assert here.worker.get("job") == here.truth()
        if not is_cache_dead:
            assert here.reader.get("job") == here.truth()
        here.clock.advance(0.5)
    assert here.reader.get("job") == here.truth()
