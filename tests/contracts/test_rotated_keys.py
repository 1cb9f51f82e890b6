"""On every store that lists its jobs, a rotation of keys moves all of them, and the count of those left falls to none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from backjob import Status
from backjob.lifecycle import completed, ended
from backjob.model import Expect
from backjob.protocols import Store
from backjob.signing import MessageSigner
from backjob.testing import FakeClock
from backjob.worker.outcomes import Outcome
from tests.shared_stores import LISTING_STORES, SharedStore
from tests.unit.core import Bench, bench, served

OLD, NEW = "Qm7x-Ns2vYk4RzL0pTfWc9JbUg1HdEa3iOy", "Zr3w-Kt8vXk5QzL6mTfDc2JbUg1HpBa7iOe"
STORES: Final = [
    pytest.param(one, marks=() if one.name == "SQLiteStore" else pytest.mark.services, id=one.name)
    for one in LISTING_STORES
]


@pytest.fixture(params=STORES)
def begin(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[MessageSigner], Bench]]:
    """Begins a process with these keys, on one store."""
    shared: SharedStore = request.param
    clock = FakeClock()
    with ExitStack() as stack:
        url = stack.enter_context(shared.place(tmp_path))

        def begin(signer: MessageSigner) -> Bench:
            store: Store = stack.enter_context(shared.open(url, clock))
            return bench(store=store, clock=clock, signer=signer, seal=True)

        yield begin


def test_the_monitor_moves_all_jobs_to_the_new_key(
    begin: Callable[[MessageSigner], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backjob.jobs.own._BATCH", 2)
    before = begin(MessageSigner(OLD, fallbacks=[NEW]))
    running = before.run()
    past = [before.start(delay=900) for _ in range(5)]
    for job_id in past:
        before.engine.store.change(job_id, Expect(), ended(completed("done")))
    with served() as here:
        waiting = {before.jobs.start(f"/work/{number}", delay=500, owner="5") for number in range(5)}

    during = begin(MessageSigner(NEW, fallbacks=[OLD]))
    assert during.engine.own_jobs.count_old(100) == 11
    during.step()
    assert during.engine.own_jobs.count_old(100) == 0

    after = begin(MessageSigner(NEW))
    assert {state.id for state in after.jobs.find()} == {*past, *waiting, running.job.id}
    assert {state.id for state in after.jobs.find(owner="5")} == waiting
    before.engine.worker.end(running, Outcome(200, "OK"))
    assert after.jobs.status(running.job.id).status is Status.COMPLETED
    after.step(501)
    after.step()
    assert {sent.delivery.job_id for sent in after.transport.sent} == waiting
    for sent in after.transport.sent:
        assert sent.delivery.sign().header("Cookie") == here.request.header("Cookie")
