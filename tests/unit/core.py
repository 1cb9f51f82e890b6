"""Shared by the tests of the core: a `BackJob` with a clock, a monitor and a transport that the test controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Final

from attrs import define, field, frozen

from backjob.delivery.monitor import Monitor
from backjob.errors import NotSent, StoreUnavailable
from backjob.http.serving import serving
from backjob.jobs import BackJob, Engine, engine_of
from backjob.model import Caller, Headers, Job, JobState, Query, Request, Response
from backjob.process import PerProcess
from backjob.protocols import Delivery, Store
from backjob.signing import MessageSigner
from backjob.status.streaming.broadcast import Broadcast
from backjob.stores.memory import MemoryStore
from backjob.testing import FakeClock
from backjob.worker.leases import Leases
from backjob.worker.running import Running

KEY: Final = "n5Yd-8sQ2vXk7RzL0mTfWc4JbUg1HpEa9iOx"
COOKIE: Final = "session=0ddC00kie"

_PAGE: Final = Request("GET", "/page", (("Cookie", COOKIE), ("User-Agent", "Browser/1")))
_CALLER: Final = Caller("https", "shop.example", "192.0.2.7")


@define
class Sent:
    """A delivery that the transport received, and its future, which the test completes."""

    delivery: Delivery
    future: Future[Response] = field(factory=Future)

    def answer(self, status: int = 200, reason: str = "OK", headers: Headers = (), body: bytes = b"") -> None:
        self.future.set_result(Response(status, reason, headers, body))

    def fail(self, error: BaseException) -> None:
        self.future.set_exception(error)


@define
class FakeTransport:
    """Records deliveries in ``sent`` and sends nothing, and needs no proof unless ``in_process`` is false. A ``script`` completes them within `send`."""

    capacity: int | None = None
    sent: list[Sent] = field(factory=list)
    script: Callable[[Sent], None] | None = None
    broken: Exception | None = None
    max_in_flight: int = 0
    closed: int = 0
    in_process: bool = True
    sends_at_once: bool = True

    def send(self, delivery: Delivery) -> Future[Response]:
        if self.broken is not None:
            raise self.broken
        sent = Sent(delivery)
        self.sent.append(sent)
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        if self.script is not None:
            self.script(sent)
        return sent.future

    @property
    def in_flight(self) -> int:
        return sum(not sent.future.done() for sent in self.sent)

    def close(self) -> None:
        self.closed += 1


class FaultyStore:
    """A store that records its calls. A test can act before a call, make calls fail, or lose their results."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.calls: list[str] = []
        self.down: set[str] = set()
        self.lost: set[str] = set()
        self.before: dict[str, Callable[[], object]] = {}
        self.broken: dict[str, Exception] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)
        if not callable(method):
            return method

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append(name)
            if name in self.down:
                raise StoreUnavailable(f"{name}: locked")
            if name in self.broken:
                raise self.broken[name]
            step = self.before.pop(name, None)
            if step is not None:
                step()
            answer = method(*arguments, **options)
            if name in self.lost:
                raise StoreUnavailable(f"{name}: the connection was lost")
            return answer

        return call

    def count(self, *names: Any) -> int:
        """How often these methods were called; for a query, what the store's own method returns."""
        if isinstance(names[0], Query):
            found: int = self.__getattr__("count")(names[0])
            return found
        return sum(name in names for name in self.calls)


@frozen
class Here:
    """A request being served."""

    request: Request = _PAGE
    caller: Caller = _CALLER
    mount: str = ""
    is_test_client: bool = False
    in_thread: bool = True

    def changed_cookies(self) -> dict[str, str | None]:
        return {}

    @property
    def origin(self) -> str:
        return f"{self.caller.scheme}://{self.caller.host}"


@contextmanager
def served(here: Here | None = None) -> Iterator[Here]:
    here = here or Here()
    token = serving.set(here)
    try:
        yield here
    finally:
        serving.reset(token)


class ManualMonitor(Monitor):
    """A monitor without a thread: the test calls `step`."""

    def ensure_running(self) -> None:
        """Start nothing."""


class ManualLeases(Leases):
    """Run leases without a thread: `Bench.step` renews them first. ``is_on_time`` says whether the process may reap."""

    is_on_time: bool | None = True

    def ensure_running(self) -> bool:
        return True

    def renew_if_due(self) -> None:
        if self._monotonic() >= self._next_tick:
            self.tick()

    def may_reap(self) -> bool:
        return super().may_reap() if self.is_on_time is None else self.is_on_time


class ManualBroadcast(Broadcast):
    """Event streams without a thread: the test calls `step`."""

    def _ensure_running(self) -> None:
        """Start nothing."""


@define
class Bench:
    """One process of an application: its `BackJob` and the parts of it."""

    clock: FakeClock
    store: FaultyStore
    transport: FakeTransport
    jobs: BackJob
    ended: list[JobState]

    @property
    def engine(self) -> Engine:
        return engine_of(self.jobs)

    @property
    def monitor(self) -> Monitor:
        return self.engine.monitor

    def start(self, path: str = "/work", **options: Any) -> str:
        return self.jobs.start(path, **{"as_current_user": False, **options})

    @property
    def leases(self) -> ManualLeases:
        leases = self.engine.leases
        assert isinstance(leases, ManualLeases)
        return leases

    def step(self, seconds: float = 0.0) -> float:
        """Let time pass, in which run leases are renewed on time, and then run the monitor once."""
        leases = self.engine.leases
        assert isinstance(leases, ManualLeases)
        while seconds > 0:
            pause = min(seconds, max(leases.interval, seconds / 500))  # a day must not take a second
            self.clock.advance(pause)
            leases.renew_if_due()
            seconds -= pause
        wait = self.monitor.step()
        while wait == 0.0:
            wait = self.monitor.step()
        return wait

    def job(self, job_id: str) -> Job:
        job = self.store.store.get(job_id)
        assert job is not None
        return job

    def receive(self, sent: Sent | None = None) -> Running:
        """Claim a sent job, by default the last one, as the middleware does."""
        sent = sent or self.transport.sent[-1]
        request = sent.delivery.sign()
        opened = self.engine.worker.open(request)
        assert opened is not None
        return self.engine.worker.claim(opened, request.body)

    def run(self, **options: Any) -> Running:
        """Start, send and claim a job."""
        self.start(**options)
        self.step()
        return self.receive()


def bench(
    *,
    clock: FakeClock | None = None,
    store: Store | None = None,
    transport: FakeTransport | None = None,
    on_end: Callable[[JobState], object] | None = None,
    **options: Any,
) -> Bench:
    """Return one process; two benches with the same clock and store are two processes of one application."""
    clock = clock or FakeClock()
    faulty = FaultyStore(store or MemoryStore(clock=clock))
    transport = transport or FakeTransport()
    ended: list[JobState] = []

    def note(state: JobState) -> None:
        ended.append(state)
        if on_end is not None:
            on_end(state)

    store_like: Any = faulty  # forwards by __getattr__
    jobs = BackJob(
        store=store_like,
        transport=transport,
        clock=clock,
        on_end=note,
        **{"signer": MessageSigner(KEY), "max_running": 1000, **options},
    )
    engine = engine_of(jobs)
    engine.calls_back_inline = True
    keeper = ManualLeases(engine.options.store, clock, engine.options.run_lease, engine.release, engine.outage)
    engine.lease_keepers = PerProcess(lambda: keeper)
    engine.monitors = PerProcess(lambda: ManualMonitor(engine.delivery_parts))
    engine.broadcasts = PerProcess(lambda: ManualBroadcast(engine.stream_source, options.get("streams")))
    engine.monitors.get()  # its clock starts here
    return Bench(clock, faulty, transport, jobs, ended)


NOT_SENT: Final = NotSent("connection refused")
