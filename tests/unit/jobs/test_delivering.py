"""`BackJob.deliver`: one job, all its runs, to its end; and why it refuses."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from backjob.clock import SystemClock
from backjob.errors import (
    AddressUnknown,
    ConnectionLost,
    DeliveryRefused,
    InvalidRequest,
    JobContinued,
    JobNotFound,
    StoreUnavailable,
)
from backjob.jobs import engine_of
from backjob.lifecycle import CARRIER, CLAIM_REFUSED, DISPATCHED, REFUSAL_HEADER
from backjob.model import Changes, Expect, Job, Status
from backjob.stores.memory import MemoryStore
from backjob.worker.outcomes import Outcome
from tests.unit.core import COOKIE, NOT_SENT, Bench, FakeTransport, Sent, bench

DEADLINE = 60.0  # s


class Site:
    """A web process that runs what is sent to it: each run ends with the next outcome, or waits for the test."""

    def __init__(self, **options: Any) -> None:
        self.store = MemoryStore()
        clock: Any = SystemClock()
        self.outcomes = [Outcome(200, "OK")]
        self.logins: list[str | None] = []
        self.arrived = threading.Event()
        self.proceed = threading.Event()
        self.proceed.set()
        self.web: Bench = bench(store=self.store, clock=clock, **{"deliver": [], **options})
        self.transport = FakeTransport(script=self.act)
        self.worker: Bench = bench(store=self.store, clock=clock, transport=self.transport, **options)

    def act(self, sent: Sent) -> None:
        threading.Thread(target=self._act, args=(sent,), daemon=True).start()

    def _act(self, sent: Sent) -> None:
        request, worker = sent.delivery.sign(), self.web.engine.worker
        self.logins.append(request.header("Cookie"))
        opened = worker.open(request)
        assert opened is not None
        running = worker.claim(opened, request.body)
        self.arrived.set()
        assert self.proceed.wait(DEADLINE)
        self.web.engine.worker.end(running, self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0])
        if not sent.future.done():
            sent.answer()

    def deliver(self, job_id: str) -> Any:
        return self.worker.jobs.deliver(job_id)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.worker.jobs.close()
    site.web.jobs.close()


def test_a_job_is_delivered_to_its_end(site: Site) -> None:
    job_id = site.web.start()
    assert stored(site, job_id).lessee is None
    state = site.deliver(job_id)
    assert (state.id, state.status, len(site.transport.sent)) == (job_id, Status.COMPLETED, 1)


def test_all_slices_and_retries_are_delivered(site: Site) -> None:
    site.outcomes = [Outcome(error=JobContinued()), Outcome(error=ZeroDivisionError("no")), Outcome(200, "OK")]
    job_id = site.web.start(retries=1, retry_delay=0.3)
    state = site.deliver(job_id)
    assert (state.status, state.attempt) == (Status.COMPLETED, 2)
    assert [sent.delivery.job_id for sent in site.transport.sent] == [job_id] * 3


def test_between_two_runs_no_other_process_takes_the_job(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.outcomes = [Outcome(error=ZeroDivisionError("no")), Outcome(200, "OK")]
    job_id = site.web.start(retries=1, retry_delay=0.5)
    seen: list[str | None] = []
    write = site.store.change

    def change(job_id: str, expect: Expect, changes: Changes) -> Job | None:
        changed = write(job_id, expect, changes)
        if changed is not None and changed.token is None and not changed.status.is_final:
            seen.append(changed.lessee)
        return changed

    monkeypatch.setattr(site.store, "change", change)
    assert site.deliver(job_id).status is Status.COMPLETED
    assert len(seen) >= 2
    assert all(lessee is not None and lessee.startswith(CARRIER) for lessee in seen)


def test_a_job_that_was_handed_to_its_engine_is_taken_over(site: Site) -> None:
    job_id = site.web.start()
    site.store.change(job_id, Expect(), Changes(lessee=DISPATCHED, lease=600))
    assert site.deliver(job_id).status is Status.COMPLETED


def test_a_job_that_a_dead_process_has_sent_long_ago_is_taken_over(site: Site) -> None:
    job_id = site.web.start()
    site.store.change(job_id, Expect(), Changes(lessee="dead", lease=0, deliver_by=0))
    assert site.deliver(job_id).status is Status.COMPLETED


def test_a_delayed_job_is_delivered_when_it_is_due(site: Site) -> None:
    job_id = site.web.start(delay=0.3)
    state = site.deliver(job_id)
    assert state.status is Status.COMPLETED
    assert state.claimed_time is not None
    assert state.claimed_time >= state.start_time


def refusal(site: Site, job_id: str) -> str:
    before = site.store.get(job_id)
    sent = len(site.transport.sent)
    with pytest.raises(DeliveryRefused) as caught:
        site.deliver(job_id)
    after = site.store.get(job_id)
    assert before is not None
    assert after is not None
    assert (after.version, len(site.transport.sent)) == (before.version, sent)
    assert caught.value.job_id == job_id
    return caught.value.reason


def test_a_job_that_has_ended_is_refused(site: Site) -> None:
    job_id = site.web.start()
    site.deliver(job_id)
    assert refusal(site, job_id) == "ended"


def test_a_job_that_runs_or_is_leased_is_refused(site: Site) -> None:
    site.proceed.clear()
    job_id = site.web.start()
    first = threading.Thread(target=site.deliver, args=(job_id,), daemon=True)
    first.start()
    assert site.arrived.wait(DEADLINE)
    assert refusal(site, job_id) == "running"
    site.proceed.set()
    first.join(DEADLINE)
    leased = site.web.start(delay=50)
    site.store.change(leased, Expect(), Changes(lessee="another", lease=30))
    assert refusal(site, leased) == "leased"


def test_a_job_with_a_login_that_only_its_process_has_is_refused() -> None:
    site = Site(deliver=None)
    job_id = site.web.start(headers={"Cookie": COOKIE})
    site.store.change(job_id, Expect(), Changes(lease=0))
    assert refusal(site, job_id) == "credentials"


def test_a_sealed_job_is_delivered_with_its_login() -> None:
    site = Site(seal=True)
    job_id = site.web.start(headers={"Cookie": COOKIE})
    assert site.deliver(job_id).status is Status.COMPLETED
    assert site.logins == [COOKIE]


def test_a_sealed_job_is_refused_where_it_can_not_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(seal=True)
    job_id = site.web.start(headers={"Cookie": COOKIE})
    monkeypatch.setattr(site.worker.engine, "_opener", lambda: None)
    assert refusal(site, job_id) == "credentials"


def test_an_unknown_job_and_an_unknown_address_are_errors(site: Site) -> None:
    with pytest.raises(JobNotFound):
        site.deliver("nothing")
    job_id = site.web.start()
    site.worker.engine.addresses._destinations = ()
    with pytest.raises(AddressUnknown):
        site.deliver(job_id)


def test_a_process_that_shuts_down_leaves_the_job_to_others(site: Site) -> None:
    job_id = site.web.start(delay=50)
    refused: list[DeliveryRefused] = []

    def deliver() -> None:
        try:
            site.deliver(job_id)
        except DeliveryRefused as error:
            refused.append(error)

    thread = threading.Thread(target=deliver, daemon=True)
    thread.start()
    engine_of(site.worker.jobs).draining.is_on = True
    thread.join(DEADLINE)
    assert [error.reason for error in refused] == ["leaving"]
    site.worker.jobs.close()
    job = site.store.get(job_id)
    assert job is not None
    assert job.lessee is None


def test_a_request_that_another_one_forestalled_is_waited_for(site: Site) -> None:
    """The job was claimed by an earlier request of the same run: its end counts."""
    job_id = site.web.start()

    def act(sent: Sent) -> None:
        site.web.receive(sent)
        sent.answer(409, "Conflict", ((REFUSAL_HEADER, CLAIM_REFUSED),))
        site.web.jobs.cancel(job_id)

    site.transport.script = act
    assert site.deliver(job_id).status is Status.CANCELLED


def test_an_action_and_a_transaction_can_not_wait_for_a_job(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = site.web.start(delay=50)
    with bench().run().active(), pytest.raises(InvalidRequest, match="in an action"):
        site.deliver(job_id)
    monkeypatch.setattr(site.worker.engine, "in_transaction", lambda: "default")
    with pytest.raises(InvalidRequest, match="'default'"):
        site.deliver(job_id)
    assert stored(site, job_id).lessee is None


def test_another_transport_is_used_if_one_is_given(site: Site) -> None:
    job_id = site.web.start()
    transport = FakeTransport(script=site.act)  # which can't be hashed
    assert site.worker.jobs.deliver(job_id, transport).status is Status.COMPLETED
    assert (len(transport.sent), len(site.transport.sent)) == (1, 0)


def test_an_action_in_a_process_without_an_address_starts_jobs_for_other_processes() -> None:
    site = Site()
    site.worker.engine.addresses._destinations = ()
    job_id, child = site.web.start(), ""

    def act(sent: Sent) -> None:
        nonlocal child
        child = site.worker.start("/child")
        site.act(sent)

    assert site.worker.jobs.deliver(job_id, FakeTransport(script=act)).status is Status.COMPLETED
    assert stored(site, child).lessee is None
    site.worker.step()
    assert stored(site, child).lessee is None


def test_a_worker_takes_no_queue_that_an_engine_carries() -> None:
    site = Site(queues={"heavy": {"dispatch": print}})
    with pytest.raises(InvalidRequest, match="an engine carries the jobs of 'heavy'"):
        site.worker.engine.run_in_process(site.transport, frozenset({"heavy"}))


def test_the_async_twin(site: Site) -> None:
    job_id = site.web.start()
    assert asyncio.run(site.worker.jobs.adeliver(job_id)).status is Status.COMPLETED


def eventually(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Stopped(BaseException):
    """An exception from outside, such as KeyboardInterrupt or a soft time limit."""


class Call:
    """A call of ``deliver()`` in another thread, which the test can interrupt."""

    def __init__(self, site: Site, job_id: str) -> None:
        self._site, self._job_id = site, job_id
        self.outcome: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.outcome = self._site.deliver(self._job_id)
        except BaseException as error:
            self.outcome = error

    def join(self) -> Any:
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        return self.outcome

    def interrupt(self) -> None:
        def stop(_job_id: str) -> Job:
            raise Stopped

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self._site.worker.engine, "job", stop)
            assert isinstance(self.join(), Stopped)


def stored(site: Site, job_id: str) -> Job:
    job = site.store.get(job_id)
    assert job is not None
    return job


def leased_call(site: Site, job_id: str) -> Call:
    call = Call(site, job_id)
    eventually(lambda: (stored(site, job_id).lessee or "").startswith(CARRIER))
    return call


def test_an_interrupted_call_leaves_a_waiting_job_to_others(site: Site) -> None:
    job_id = site.web.start(delay=50)
    leased_call(site, job_id).interrupt()
    eventually(lambda: stored(site, job_id).lessee is None)
    assert not site.worker.engine.carrier(None).carries(job_id)


def test_an_interrupted_call_leaves_the_next_run_to_others(site: Site) -> None:
    site.proceed.clear()
    site.outcomes = [Outcome(error=JobContinued())]
    job_id = site.web.start()
    call = Call(site, job_id)
    assert site.arrived.wait(DEADLINE)
    call.interrupt()
    eventually(lambda: stored(site, job_id).lessee is None)
    site.proceed.set()
    eventually(lambda: stored(site, job_id).run == 2)
    assert stored(site, job_id).lease_until is None
    assert len(site.transport.sent) == 1


def test_the_next_run_is_delivered_at_once_after_a_lost_connection(site: Site) -> None:
    site.proceed.clear()
    site.outcomes = [Outcome(error=JobContinued()), Outcome(200, "OK")]
    job_id = site.web.start()
    call = Call(site, job_id)
    assert site.arrived.wait(DEADLINE)
    site.transport.sent[0].fail(ConnectionLost("the proxy's time-out"))
    eventually(lambda: not site.worker.engine.carrier(None).carries(job_id))
    site.proceed.set()
    assert call.join().status is Status.COMPLETED


def test_an_unavailable_store_does_not_end_the_call(site: Site) -> None:
    job_id = site.web.start(delay=50)
    call = leased_call(site, job_id)
    site.worker.store.down = {"change"}
    site.store.change(job_id, Expect(), Changes(lessee=None, lease=None, due=0))
    before = site.worker.store.count("change")
    eventually(lambda: site.worker.store.count("change") > before)
    site.worker.store.down = set()
    assert call.join().status is Status.COMPLETED


def test_a_lease_that_an_earlier_call_has_left_over_is_used(site: Site) -> None:
    job_id = site.web.start()
    site.worker.store.lost = {"change"}
    with pytest.raises(StoreUnavailable):
        site.deliver(job_id)
    site.worker.store.lost = set()
    assert site.deliver(job_id).status is Status.COMPLETED


def test_a_second_call_in_the_process_is_refused(site: Site) -> None:
    job_id = site.web.start(delay=50)
    call = leased_call(site, job_id)
    assert refusal(site, job_id) == "leased"
    site.web.jobs.cancel(job_id)
    assert call.join().status is Status.CANCELLED


def test_a_job_expires_while_no_web_server_answers() -> None:
    site = Site()
    site.worker.leases.is_on_time = False  # a worker of an engine runs no jobs itself
    site.transport.in_process, site.transport.script = False, lambda sent: sent.fail(NOT_SENT)
    job_id = site.web.start(expires=0.3)
    state = Call(site, job_id).join()
    assert (state.status, state.status_text.partition(":")[0]) == (Status.FAILED, "expired")


def test_closing_ends_the_calls_and_refuses_later_ones(site: Site) -> None:
    job_id = site.web.start(delay=50)
    call = leased_call(site, job_id)
    site.worker.jobs.close()
    assert call.join().reason == "leaving"
    assert stored(site, job_id).lessee is None
    assert refusal(site, job_id) == "leaving"


def test_waiting_coroutines_occupy_no_threads_and_can_be_cancelled(site: Site) -> None:
    ids = [site.web.start(delay=50) for _ in range(40)]

    async def deliver_all() -> None:
        calls = [asyncio.create_task(site.worker.jobs.adeliver(job_id)) for job_id in ids]
        async with asyncio.timeout(DEADLINE):
            while not all(stored(site, job_id).lessee for job_id in ids):  # noqa: ASYNC110 - in another thread
                await asyncio.sleep(0.02)
            await site.worker.engine.offload(int)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(deliver_all())
    eventually(lambda: not any(stored(site, job_id).lessee for job_id in ids))


def test_a_job_whose_login_died_with_its_process_ends() -> None:
    site = Site(deliver=None)
    job_id = site.web.start(headers={"Cookie": COOKIE})
    site.store.change(job_id, Expect(), Changes(lessee=DISPATCHED, lease=600))  # its queue has got an engine since
    state = site.deliver(job_id)
    assert (state.status, len(site.transport.sent)) == (Status.FAILED, 0)
