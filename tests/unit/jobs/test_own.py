"""Applications that share a store have their own jobs, and keys can be rotated without losing one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from attrs import evolve

from backjob import Status
from backjob.errors import JobContinued, JobNotFound
from backjob.lifecycle import claimed, completed, ended
from backjob.model import Caller, Changes, Draft, Expect, Output, Query, Report, Request
from backjob.signing import MessageSigner
from backjob.signing.rows import RowKeys
from backjob.stores.memory import MemoryStore
from backjob.testing import FakeClock
from backjob.worker.outcomes import Outcome
from backjob.worker.replies import Refusal
from tests.unit.core import Bench, Here, bench, served

OLD = "Qm7x-Ns2vYk4RzL0pTfWc9JbUg1HdEa3iOy"
NEW = "Zr3w-Kt8vXk5QzL6mTfDc2JbUg1HpBa7iOe"


def two(store: MemoryStore, clock: FakeClock, **options: Any) -> tuple[Bench, Bench]:
    """Two applications on one store."""
    a = bench(store=store, clock=clock, signer=MessageSigner(OLD), **options)
    b = bench(store=store, clock=clock, signer=MessageSigner(NEW), **options)
    return a, b


def test_an_application_does_not_touch_the_jobs_of_another_one_on_the_same_store() -> None:
    clock = FakeClock()
    a, b = two(MemoryStore(clock=clock), clock)
    job_id = a.start(owner="5", delay=1)
    for _ in range(100):
        b.step(10.0)
    assert b.transport.sent == []
    assert a.job(job_id).status is Status.STARTED
    assert a.job(job_id).lessee is None
    a.step()
    assert [sent.delivery.job_id for sent in a.transport.sent] == [job_id]


@pytest.mark.parametrize("call", ["status", "output", "cancel", "finish", "fail", "join", "scope"])
def test_another_applications_job_is_unknown(call: str) -> None:
    clock = FakeClock()
    a, b = two(MemoryStore(clock=clock), clock)
    job_id = a.start(owner="5")
    running = a.engine.store.change(job_id, *claimed("token", run=1, lease=18.0))
    assert running is not None
    a.engine.store.report(job_id, "token", Report(output="secret\n"))
    end: dict[str, Callable[[], object]] = {
        "finish": lambda: b.jobs.finish(job_id=job_id),
        "fail": lambda: b.jobs.fail("no", job_id=job_id),
    }
    otherwise: Callable[[], object] = partial(getattr(b.jobs, call), job_id)
    with pytest.raises(JobNotFound):
        end.get(call, otherwise)()
    assert not b.jobs.exists(job_id)
    assert b.jobs.find(owner="5") == []
    assert [state.id for state in a.jobs.find(owner="5")] == [job_id]
    assert a.jobs.output(job_id).text == "secret\n"


def test_only_its_own_application_deletes_a_job() -> None:
    clock = FakeClock()
    a, b = two(MemoryStore(clock=clock), clock)
    job_id = a.start()
    assert b.engine.store.delete(job_id) is False
    assert a.jobs.exists(job_id)
    assert a.engine.store.delete(job_id) is True
    assert not a.jobs.exists(job_id)
    assert a.engine.store.delete(job_id) is False
    assert a.engine.store.output(job_id) == Output("", 0)


def test_a_rotation_keeps_the_proof_of_a_request_that_outlives_its_job() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    before = bench(store=store, clock=clock, signer=MessageSigner(OLD), seal=True)
    request = Request("POST", "/work", body=b"rows")
    for number, sealed in enumerate((None, b"sealed")):
        job = before.engine.store.create(Draft(id=f"{number}", request=request, keep_request=True, sealed=sealed))
        before.engine.store.change(job.id, Expect(), ended(completed(), job))
    during = bench(store=store, clock=clock, signer=MessageSigner(NEW, fallbacks=[OLD]), seal=True)
    during.step()
    assert during.engine.own_jobs.count_old(10) == 0
    keys = RowKeys(MessageSigner(NEW))
    for number in range(2):
        moved = store.get(f"{number}", body=True)
        assert moved is not None
        assert moved.request == request
        assert keys.is_authentic_with(moved, b"rows")
        assert not keys.is_authentic_with(moved, b"other")


def test_a_slot_is_not_lost_with_the_key_of_the_job_that_has_it() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    a, b = two(store, clock, queues={"exports": {"max_running": 1}})
    running = a.run(queue="exports")
    mine = b.start(queue="exports")
    for _ in range(40):
        a.step(2)  # its process lives
        b.step(2)
    assert (a.job(running.job.id).slot, b.transport.sent) == ("exports/0", [])
    a.jobs.close()  # and there is no other process with this key
    for _ in range(80):
        b.step(2)
    assert [sent.delivery.job_id for sent in b.transport.sent] == [mine]
    assert (a.job(running.job.id).status, a.job(running.job.id).slot) == (Status.IN_PROGRESS, None)


def test_a_purge_spares_the_jobs_of_other_applications() -> None:
    clock = FakeClock()
    a, b = two(MemoryStore(clock=clock), clock, completed_retention_days=1)
    job_id = a.start()
    a.engine.store.change(job_id, Expect(), ended(completed()))
    clock.advance(3 * 86400)
    b.step()
    assert a.jobs.exists(job_id)
    a.step()
    assert not a.jobs.exists(job_id)


def test_after_a_rotation_the_monitor_relabels_every_job_and_the_old_key_can_be_dropped() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    before = bench(store=store, clock=clock, signer=MessageSigner(OLD), seal=True)
    with served() as here:
        waiting = before.jobs.start("/work", delay=500)
    finished = before.start()
    before.engine.store.change(finished, Expect(), ended(completed("done")))
    during = bench(store=store, clock=clock, signer=MessageSigner(NEW, fallbacks=[OLD]), seal=True)
    assert during.jobs.status(finished).status_text == "done"
    assert during.engine.own_jobs.count_old(10) == 2
    during.step()
    assert during.engine.own_jobs.count_old(10) == 0
    after = bench(store=store, clock=clock, signer=MessageSigner(NEW), seal=True)
    assert after.jobs.status(finished).status_text == "done"
    after.step(501)
    (sent,) = after.transport.sent
    assert sent.delivery.job_id == waiting
    assert sent.delivery.sign().header("Cookie") == here.request.header("Cookie")


def test_a_rotation_in_mid_run_keeps_sealed_credentials_and_the_slot_for_the_next_run() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    options: dict[str, Any] = {"store": store, "clock": clock, "seal": True, "queues": {"exports": {"max_running": 1}}}
    before = bench(signer=MessageSigner(OLD, fallbacks=[NEW]), **options)
    during = bench(signer=MessageSigner(NEW, fallbacks=[OLD]), **options)
    with served() as here:
        job_id = before.jobs.start("/work", retries=1, queue="exports")
    before.step()
    running = before.receive()
    other = during.start(queue="exports")
    during.step(5)
    assert (during.job(job_id).label, during.transport.sent) == (during.engine.row_keys.label, [])
    before.engine.worker.end(running, Outcome(error=JobContinued()))
    before.jobs.close()
    after = bench(signer=MessageSigner(NEW), **options)
    during.jobs.close()
    for _ in range(5):
        after.step(10)
    first = after.transport.sent[0]
    assert (len(after.transport.sent), after.store.count(Query(status=Status.STARTED))) == (1, 1)
    if first.delivery.job_id == other:  # the order is not the point
        after.engine.worker.end(after.receive(), Outcome(200))
        first.answer()
        after.step(1)
    sent = after.transport.sent[-1]
    assert (sent.delivery.job_id, sent.delivery.sign().header("Cookie")) == (job_id, here.request.header("Cookie"))


def test_once_seal_is_turned_off_sealed_jobs_still_get_their_credentials_after_a_rotation_too() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    before = bench(store=store, clock=clock, signer=MessageSigner(OLD), seal=True)
    with served() as here:
        before.jobs.start("/work", delay=500)
    before.jobs.close()
    during = bench(store=store, clock=clock, signer=MessageSigner(NEW, fallbacks=[OLD]))
    without_cryptography = during.engine.own_jobs.relabel(lambda: None)
    assert (without_cryptography, during.engine.own_jobs.count_old(10)) == (0, 1)
    during.step(60)
    assert during.engine.own_jobs.count_old(10) == 0
    during.step(500)
    (sent,) = during.transport.sent
    assert sent.delivery.sign().header("Cookie") == here.request.header("Cookie")


def test_while_keys_are_rotated_each_process_has_the_jobs_of_all() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    first = bench(store=store, clock=clock, signer=MessageSigner(OLD, fallbacks=[NEW]))
    second = bench(store=store, clock=clock, signer=MessageSigner(NEW, fallbacks=[OLD]))
    ids = {first.start(), second.start()}
    for one in (first, second):
        assert {state.id for state in one.jobs.find()} == ids
        assert {one.jobs.status(job_id).status for job_id in ids} == {Status.STARTED}


def test_processes_that_rotate_in_opposite_directions_do_not_move_jobs_without_end() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    first = bench(store=store, clock=clock, signer=MessageSigner(OLD, fallbacks=[NEW]))
    second = bench(store=store, clock=clock, signer=MessageSigner(NEW, fallbacks=[OLD]))
    ids = {first.start(delay=900) for _ in range(150)}
    moved = 0
    for _ in range(100):  # as both monitors do, each pass at once after one that moved a job
        moves = second.engine.own_jobs.relabel(lambda: None), first.engine.own_jobs.relabel(lambda: None)
        moved += sum(moves)
        if moves == (0, 0):
            break
    assert 0 < moved < 1000
    first.jobs.close()
    for _ in range(3):  # once the deployment is complete
        second.step(60)
    assert second.engine.own_jobs.count_old(1000) == 0
    assert {state.id for state in second.jobs.find(limit=200)} == ids


def test_a_fallback_key_that_no_job_needs_costs_few_reads() -> None:
    counts = []
    for fallbacks in ([], [OLD]):
        one = bench(signer=MessageSigner(NEW, fallbacks=fallbacks))
        for _ in range(360):
            one.step(10.0)
        counts.append(one.store.count("find"))
    assert 0 < counts[1] - counts[0] <= 50  # in an hour


def test_a_running_job_whose_label_was_renewed_is_still_as_it_was_written() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    before = bench(store=store, clock=clock, signer=MessageSigner(OLD, fallbacks=[NEW]), seal=True)
    during = bench(store=store, clock=clock, signer=MessageSigner(NEW, fallbacks=[OLD]), seal=True)
    with served():
        job_id = before.jobs.start("/work", method="POST", body=b"text", merge="unfinished")
    before.step()
    on_the_way = before.transport.sent[-1]

    def relabel() -> None:
        during.step()
        assert during.job(job_id).label == during.engine.row_keys.label

    # Only the answer to the claim is lost, so the worker reads the job, which has just got its new label.
    before.store.lost.add("change")
    before.store.before["get"] = relabel
    assert before.receive(on_the_way).job.id == job_id
    before.store.lost.clear()
    with served():
        assert before.jobs.start("/work", method="POST", body=b"text", merge="unfinished") == job_id


def test_a_job_without_a_label_is_no_application_s_and_ends_when_it_is_overdue(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    one = bench(store=MemoryStore(clock=clock), clock=clock)
    one.store.store.create(Draft(id="first-version", request=Request("GET", "/work")))
    one.store.store.change("first-version", Expect(), Changes(deliver_by=600.0))  # as the first version wrote it
    assert not one.jobs.exists("first-version")
    one.step()
    assert one.transport.sent == []
    one.step(3600)
    assert one.job("first-version").status is Status.FAILED
    assert one.ended == []
    [record] = caplog.records
    assert (record.levelname, record.__dict__["job_id"]) == ("ERROR", "first-version")


def test_relabelling_does_not_make_a_forged_row_authentic() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    before = bench(store=store, clock=clock, signer=MessageSigner(OLD))
    job_id = before.start(delay=5)
    store._jobs[job_id] = evolve(store._jobs[job_id], request=Request("POST", "/admin/delete"))
    during = bench(store=store, clock=clock, signer=MessageSigner(NEW, fallbacks=[OLD]))
    during.step()
    during.step(6)
    assert during.transport.sent == []
    assert during.job(job_id).status is Status.FAILED


@pytest.mark.parametrize(
    "change",
    [
        {"request": Request("POST", "/admin/delete")},
        {"request": Request("GET", "/work", (("X-Tenant", "other"),))},
        {"request": Request("GET", "/work", body=b"other")},
        {"owner": "admin"},
        {"owner": None},
        {"caller": Caller("https", "evil.example", "203.0.113.9")},
        {"held": True},
        {"sealed": b"another row's"},
        {"label": "another's"},
        {"proof": None},
        {"proof": "made-up"},
    ],
    ids=str,
)
def test_nothing_is_sent_for_a_row_that_was_changed_outside_of_backjob(
    change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    first, other = bench(store=store, clock=clock), bench(store=store, clock=clock)
    job_id = first.start(owner="eve")
    store._jobs[job_id] = evolve(store._jobs[job_id], **change)
    other.step(31)  # the lease of the process that accepted it is over
    other.step(16)  # and what seems to lack credentials has waited for them
    assert other.transport.sent == []
    if "label" in change:
        assert not other.jobs.exists(job_id)
        return
    assert other.jobs.status(job_id).status is Status.FAILED
    assert "changed outside of backjob" in other.jobs.status(job_id).status_text
    assert "not as this application wrote it" in caplog.text


@pytest.mark.parametrize("seal", [True, False])
@pytest.mark.parametrize("change", [{"owner": "admin"}, {"caller": None}, {"proof": None}], ids=str)
def test_a_row_that_was_changed_after_its_request_was_signed_does_not_run(seal: bool, change: dict[str, Any]) -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    one = bench(store=store, clock=clock, seal=seal)
    with served():
        honest, job_id = one.jobs.start("/work", owner="ann"), one.jobs.start("/work", owner="eve")
    one.step()
    store._jobs[job_id] = evolve(store._jobs[job_id], **change)
    for sent in one.transport.sent:
        if sent.delivery.job_id == honest:
            assert one.receive(sent).job.owner == "ann"
        else:
            with pytest.raises(Refusal, match="changed outside of backjob"):
                one.receive(sent)
    assert one.jobs.status(job_id).status is Status.FAILED
    assert [state.id for state in one.ended] == [job_id]


def test_sealed_credentials_of_another_row_are_worthless_even_with_its_proof() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    one = bench(store=store, clock=clock, seal=True)
    with served():
        admins = one.jobs.start("/work", owner="admin", delay=100)
        eves = one.jobs.start("/work", owner="eve", delay=5)
    stolen = store._jobs[admins]
    store._jobs[eves] = evolve(store._jobs[eves], sealed=stolen.sealed, proof=stolen.proof)
    one.step(6)
    assert one.transport.sent == []
    assert one.jobs.status(eves).status is Status.FAILED
    assert one.engine.sealer is not None
    assert (
        one.engine.sealer.open(stolen.sealed or b"", one.engine.row_keys.binding(store._jobs[eves], stolen.label))
        is None
    )


def move_key(store: MemoryStore, source: str, target: str) -> None:
    """Move a merge key from one row to another, as an UPDATE of a table could."""
    key = store._jobs[source].merge_key
    assert key is not None
    store._jobs[source] = evolve(store._jobs[source], merge_key=None)
    store._jobs[target] = evolve(store._jobs[target], merge_key=key)
    store._merging[key] = target


@pytest.mark.parametrize("kind", ["held", "sealed", "anonymous"])
def test_a_merge_key_that_was_moved_to_another_row_lends_it_no_credentials(kind: str) -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    one = bench(store=store, clock=clock, seal=kind == "sealed")
    with served() as here:
        anns = one.jobs.start("/work", owner="ann", merge="pending", delay=5)
    eves = one.start("/transfer", owner="eve", delay=9, as_current_user=False)
    if kind != "anonymous":
        with served(Here(Request("GET", "/page", (("Cookie", "session=eve"),)))):
            eves = one.jobs.start("/transfer", owner="eve", delay=9)
    move_key(store, anns, eves)
    with served():
        again = one.jobs.start("/work", owner="ann", merge="pending", delay=5)
    assert again not in (anns, eves)
    one.step(5)
    one.step(5)
    sent = {sent.delivery.job_id: sent.delivery.sign() for sent in one.transport.sent}
    assert {anns, eves, again} <= sent.keys()
    assert sent[again].header("Cookie") == here.request.header("Cookie")
    assert sent[eves].header("Cookie") == (None if kind == "anonymous" else "session=eve")


def test_a_waiting_job_that_was_changed_into_the_callers_own_is_not_joined() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    one = bench(store=store, clock=clock)
    with served():
        anns = one.jobs.start("/work", owner="ann", merge="pending", delay=5)
    eves = one.start("/transfer", owner="eve", delay=5)
    original, row = store._jobs[eves], store._jobs[anns]
    store._jobs[eves] = evolve(original, request=row.request, caller=row.caller, owner="ann")
    move_key(store, anns, eves)
    with served():
        assert one.jobs.start("/work", owner="ann", merge="pending", delay=5) not in (anns, eves)
    store._jobs[eves] = original
    one.step(5)
    sent = {sent.delivery.job_id: sent.delivery.sign() for sent in one.transport.sent}
    assert sent[eves].header("Cookie") is None


def test_a_key_that_waits_for_sending_on_a_running_job_keeps_no_start_waiting() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    one = bench(store=store, clock=clock)
    first = one.start(merge="pending")
    store._jobs[first] = evolve(store._jobs[first], status=Status.IN_PROGRESS)
    assert one.start(merge="pending") != first
