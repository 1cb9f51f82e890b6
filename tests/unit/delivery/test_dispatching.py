"""Jobs that an engine carries: when their ids are handed over, again, and to whom; and queues that others deliver."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from attrs import define, field

from backjob.errors import InvalidRequest
from backjob.lifecycle import DISPATCHED, WAITING_TEXTS
from backjob.model import Changes, Expect, Status
from backjob.process import PerProcess
from backjob.worker.outcomes import Outcome
from tests.unit.core import COOKIE, Bench, bench


class AsyncEngine:
    async def __call__(self, job_id: str) -> None: ...


class Timeout(BaseException):
    """Some libraries' time-outs are no `Exception`."""


@define
class Engine:
    """An engine that records the ids, and that fails while it is ``broken``. Its thread is the test's."""

    taken: list[str] = field(factory=list)
    broken: BaseException | None = None
    waiting: int = 0

    def __call__(self, job_id: str) -> None:
        if self.broken is not None:
            raise self.broken
        self.taken.append(job_id)

    @property
    def count(self) -> int:
        return self.waiting

    def call(self, _job_id: str, callback: Callable[[], object], _dropped: object = None) -> None:
        callback()


def world_of(engine: Engine, **options: Any) -> Bench:
    world = bench(**{"queues": {"heavy": {"dispatch": engine}}, **options})
    calls: Any = PerProcess(lambda: {"heavy": engine})
    world.engine.dispatches = calls
    return world


@pytest.fixture
def carrier() -> Engine:
    return Engine()


@pytest.fixture
def world(carrier: Engine) -> Bench:
    return world_of(carrier)


def test_a_due_job_is_handed_over_when_it_is_started(world: Bench, carrier: Engine) -> None:
    heavy, light = world.start(queue="heavy"), world.start()
    world.step()
    assert carrier.taken == [heavy]
    assert [sent.delivery.job_id for sent in world.transport.sent] == [light]
    assert world.job(heavy).lessee == DISPATCHED
    assert world.jobs.status(heavy).waiting_for == "engine"


def test_a_delayed_job_is_handed_over_when_it_is_due(world: Bench, carrier: Engine) -> None:
    job_id = world.start(queue="heavy", delay=50)
    world.step(49)
    assert carrier.taken == []
    assert world.jobs.status(job_id).waiting_for == "due"
    world.step(2)
    assert carrier.taken == [job_id]


def test_many_jobs_that_are_due_at_once_are_all_handed_over_at_once(world: Bench, carrier: Engine) -> None:
    ids = [world.start(queue="heavy", delay=1) for _ in range(250)]
    world.step(1)
    assert sorted(carrier.taken) == sorted(ids)


def test_a_lost_message_is_repeated_after_ever_longer_times(carrier: Engine) -> None:
    world = world_of(carrier, redispatch_after=100)
    job_id = world.start(queue="heavy")
    moments: list[int] = []
    for second in range(1000):
        world.step(1)
        if len(carrier.taken) > len(moments):
            moments.append(second)
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    assert set(carrier.taken) == {job_id}
    # An idle process looks only every few seconds.
    assert [pause // 50 for pause in pauses] == [2, 2, 4, 8]
    assert world.job(job_id).delivery == len(moments)


@pytest.mark.parametrize("error", [ConnectionError, Timeout])
def test_an_engine_that_fails_gets_the_jobs_later(
    world: Bench, carrier: Engine, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    carrier.broken = error("the broker is down")
    ids = [world.start(queue="heavy") for _ in range(20)]
    world.step(5)
    assert carrier.taken == []
    assert [world.jobs.status(job_id).waiting_for for job_id in ids] == ["engine"] * 20
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert f"{error.__name__}: the broker is down" in warning.getMessage()
    carrier.broken = None
    world.step(12)
    world.step(12)
    assert sorted(carrier.taken) == sorted(ids)


def test_a_process_that_has_many_jobs_to_hand_over_leaves_the_others_to_later(world: Bench, carrier: Engine) -> None:
    carrier.waiting = 1000
    job_id = world.start(queue="heavy")
    world.step(5)
    assert (carrier.taken, world.job(job_id).lessee) == ([], None)
    carrier.waiting = 0
    world.step(5)
    assert carrier.taken == [job_id]


def test_a_retry_is_handed_over_again(world: Bench, carrier: Engine) -> None:
    job_id = world.start(queue="heavy", retries=1, retry_delay=5)
    (sent,) = _delivered_elsewhere(world, job_id)
    world.engine.worker.end(world.receive(sent), Outcome(error=ZeroDivisionError("no")))
    world.step(20)
    assert carrier.taken == [job_id, job_id]


def _delivered_elsewhere(world: Bench, job_id: str) -> list[Any]:
    """Deliver a job by another process of the site, whose transport records the request."""
    other = bench(clock=world.clock, store=world.store.store)
    job = other.store.store.get(job_id, body=True)
    assert job is not None
    leased = other.store.store.change(job_id, Expect(), Changes(lessee=other.monitor.lessee, lease=30))
    assert leased is not None
    other.monitor.accept(other.store.store.get(job_id, body=True) or leased, None, other.clock.monotonic())
    other.step()
    return list(other.transport.sent)


def test_a_job_with_a_login_that_only_this_process_has_is_refused(world: Bench, carrier: Engine) -> None:
    with pytest.raises(InvalidRequest, match="as_owner=True") as caught:
        world.start(queue="heavy", headers={"Cookie": COOKIE})
    assert caught.value.argument == "queue"
    assert (world.store.calls.count("create"), carrier.taken) == (0, [])


def test_only_the_named_queues_are_delivered(carrier: Engine) -> None:
    world = world_of(carrier, deliver=["mails"])
    ids = {queue: world.start(queue=queue) for queue in ("default", "mails", "heavy")}
    world.step()
    world.step(5)
    assert [sent.delivery.job_id for sent in world.transport.sent] == [ids["mails"]]
    assert world.job(ids["default"]).lessee is None
    left = world.jobs.status(ids["default"])
    assert (left.waiting_for, left.status_text) == ("engine", WAITING_TEXTS["engine"])
    assert [state.waiting_for for state in world.jobs.find(queue="default")] == ["engine"]
    assert carrier.taken == [ids["heavy"]]


def test_a_process_that_delivers_nothing_needs_no_address() -> None:
    world = bench(deliver=[])
    world.engine.addresses._destinations = ()
    job_id = world.start()
    world.step(5)
    assert (world.job(job_id).status, world.job(job_id).lessee) == (Status.STARTED, None)
    with pytest.raises(InvalidRequest, match="other processes"):
        world.start(headers={"Cookie": COOKIE})


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"queues": {"heavy": {"dispatch": "celery"}}}, "must be a function that takes the id"),
        ({"queues": {"heavy": {"dispatch": print}}, "deliver": ["heavy"]}, "an engine carries"),
        ({"queues": {"heavy": {"dispatch": asyncio.sleep}}}, "must not be async"),
        ({"queues": {"heavy": {"dispatch": AsyncEngine()}}}, "must not be async"),
        ({"deliver": "heavy"}, "must be a list"),
        ({"deliver": 5}, "must be a list"),
        ({"deliver": [5]}, "must be text"),
        ({"redispatch_after": 0}, "redispatch_after"),
    ],
)
def test_invalid_settings_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        bench(**options)


def test_an_engine_that_wants_it_gets_the_jobs_to_deliver() -> None:
    attached: list[Any] = []

    class Attaching(Engine):
        def attach(self, jobs: Any) -> None:
            attached.append(jobs)

    world = world_of(Attaching())
    assert attached == [world.jobs]


def test_a_lost_answer_of_the_store_costs_no_more_than_a_short_lease(world: Bench, carrier: Engine) -> None:
    job_id = world.start(queue="heavy", delay=1)
    world.store.lost = {"take_due"}
    world.step(2)
    world.store.lost = set()
    world.step(35)
    assert carrier.taken == [job_id]


def test_a_job_that_was_sent_before_its_engine_failed_waits_for_the_engine_without_a_limit(carrier: Engine) -> None:
    world = world_of(carrier)
    job_id = world.start(queue="heavy", delay=1)
    world.store.store.change(job_id, Expect(), Changes(lessee="dead", lease=0, deliver_by=500))
    world.step(2)
    for _ in range(400):
        world.monitor.note_request()
        world.step(2)
    state = world.jobs.status(job_id)
    assert (state.status, state.waiting_for) == (Status.STARTED, "engine")


def test_a_job_that_waits_for_its_engine_needs_no_slot(carrier: Engine) -> None:
    world = world_of(carrier, queues={"heavy": {"dispatch": carrier, "max_running": 1}})
    job_id = world.start(queue="heavy", delay=1)
    world.store.store.change(job_id, Expect(), Changes(lessee="dead", lease=0, slot="heavy/0"))
    world.step(2)
    assert (carrier.taken, world.job(job_id).slot) == ([job_id], None)


def test_calls_that_join_a_job_send_no_further_messages(world: Bench, carrier: Engine) -> None:
    ids = {world.start(queue="heavy", merge="pending") for _ in range(5)}
    assert (carrier.taken, len(ids)) == ([*ids], 1)


def test_a_call_that_brings_a_delayed_job_forward_hands_it_over(world: Bench, carrier: Engine) -> None:
    job_id = world.start(queue="heavy", merge="pending", delay=50)
    assert world.start(queue="heavy", merge="pending") == job_id
    assert carrier.taken == [job_id]


def test_an_engine_that_fails_gives_back_a_job_that_a_call_has_joined_meanwhile(world: Bench) -> None:
    ids: list[str] = []

    def fail(job_id: str) -> None:
        ids.append(job_id)
        world.start(queue="heavy", merge="pending")
        raise ConnectionError

    world.engine.dispatcher._engines["heavy"].hand_over = fail
    job_id = world.start(queue="heavy", merge="pending")
    assert (ids, world.job(job_id).lessee) == ([job_id], None)


def test_an_engine_that_blocks_delays_no_other_and_its_jobs_are_left_to_others_at_the_end() -> None:
    begun, release, handed = threading.Event(), threading.Event(), threading.Event()

    def block(_job_id: str) -> None:
        begun.set()
        release.wait(20)

    world = bench(queues={"slow": {"dispatch": block}, "fast": {"dispatch": lambda _: handed.set()}})
    first, second = world.start(queue="slow"), world.start(queue="slow")
    assert begun.wait(20)
    world.start(queue="fast")
    assert handed.wait(20)
    world.engine.dispatches.get()["slow"].close(0.0)
    release.set()
    assert [world.job(job_id).lessee for job_id in (first, second)] == [DISPATCHED, None]


def test_ids_are_handed_over_before_the_server_shuts_down(monkeypatch: pytest.MonkeyPatch) -> None:
    flushing, handed = threading.Event(), list[str]()

    def hand_over(job_id: str) -> None:
        assert flushing.wait(20)
        handed.append(job_id)

    world = bench(queues={"heavy": {"dispatch": hand_over}})
    calls = world.engine.dispatches.get()["heavy"]
    flush = calls.flush

    def note_and_flush(timeout: float) -> bool:
        flushing.set()
        return flush(timeout)

    monkeypatch.setattr(calls, "flush", note_and_flush)
    job_id = world.start(queue="heavy")
    world.engine.leave()
    assert handed == [job_id]
