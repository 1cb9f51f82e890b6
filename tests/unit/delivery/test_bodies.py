"""Every attempt sends the body of the request, although the store returns it only on request."""

from __future__ import annotations

import pytest
from attrs import evolve
from typing_extensions import override

from backjob.delivery.keeping import LEASE
from backjob.model import Changes, Expect, Job
from backjob.stores.memory import MemoryStore
from backjob.testing import FakeClock
from tests.unit.core import NOT_SENT, Bench, bench


def _without_body(job: Job | None) -> Job | None:
    return job if job is None or job.request is None else evolve(job, request=evolve(job.request, body=b""))


class _Frugal(MemoryStore):
    """Returns no body that it need not return."""

    @override
    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        job = super().get(job_id)
        return job if body else _without_body(job)

    @override
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        return _without_body(super().change(job_id, expect, changes))


@pytest.fixture
def world() -> Bench:
    clock = FakeClock()
    return bench(clock=clock, store=_Frugal(clock=clock))


def sent_bodies(world: Bench) -> list[bytes]:
    return [sent.delivery.sign().body for sent in world.transport.sent]


def test_a_repeated_attempt_sends_the_body(world: Bench) -> None:
    world.start(method="POST", form={"a": "b"})
    world.step()
    for _ in range(3):
        world.transport.sent[-1].fail(NOT_SENT)
        world.step()
        world.step(0.5)
    assert sent_bodies(world) == [b"a=b"] * 4
    assert [sent.delivery.attempt for sent in world.transport.sent] == [1, 2, 3, 4]


def test_the_first_attempt_reads_no_job(world: Bench) -> None:
    world.start(method="POST", form={"a": "b"})
    world.step()
    assert sent_bodies(world) == [b"a=b"]
    assert world.store.count("get") == 0


@pytest.mark.parametrize("merge", ["pending", "unfinished"])
def test_a_merged_job_sends_the_body(world: Bench, merge: str) -> None:
    for _ in range(2):
        world.start(method="POST", form={"a": "b"}, owner="ann", merge=merge, delay=5)
    world.step(5)
    assert sent_bodies(world) == [b"a=b"]


def test_a_job_sends_the_body_after_another_process_renewed_or_changed_it(world: Bench) -> None:
    job_id = world.start(method="POST", form={"a": "b"}, delay=2 * LEASE)
    world.store.change(job_id, Expect(), Changes(lessee=world.monitor.lessee, lease=LEASE))
    for _ in range(8):
        world.step(LEASE / 4)
    assert sent_bodies(world) == [b"a=b"]


def test_a_job_of_a_process_that_died_sends_the_body(world: Bench) -> None:
    world.start(method="POST", form={"a": "b"})
    other = bench(clock=world.clock, store=world.store.store)
    other.step(LEASE)
    assert sent_bodies(other) == [b"a=b"]
