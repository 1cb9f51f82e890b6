"""Several writers of jobs in a cache, with their calls to it interleaved in any order, and stalls between them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backjob.lifecycle import cancelled, claimed, completed, ended
from backjob.model import Changes, Draft, Expect, Output, Query, Report, Request, Status
from backjob.stores.cache import CacheStore
from backjob.stores.cache.chain import LINGER
from backjob.testing import FakeClock
from tests.contracts.turns import Turns

Log: TypeAlias = list[str]
Action: TypeAlias = Callable[[CacheStore, str], Log]

STALLED: Final = 50
"""In an order, a number above this one lets an hour pass: all waiting callers stall for that long."""


def draft(job_id: str) -> Draft:
    return Draft(id=job_id, request=Request("GET", "/work"))


def claim(store: CacheStore, name: str) -> Log:
    return [] if store.change("job", *claimed(name, 1, 60)) is None else [f"claimed {name}"]


def claim_and_work(store: CacheStore, name: str) -> Log:
    log = claim(store, name)
    if not log:
        return log
    for number in range(2):
        if store.report("job", name, Report(output=f"{name}{number};")):
            log.append(f"wrote {name}{number};")
    if store.change("job", Expect(status=Status.IN_PROGRESS, token=name), ended(completed())) is not None:
        log.append("ended COMPLETED")
    return log


def cancel(store: CacheStore, _: str) -> Log:
    for status in (Status.STARTED, Status.IN_PROGRESS) * 2:
        if store.change("job", Expect(status=status), ended(cancelled())) is not None:
            return ["ended CANCELLED"]
    return []


def take(store: CacheStore, name: str) -> Log:
    return [f"taken {job.id}" for _ in range(2) for job in store.take_due(name, 60, 5)]


def beat(store: CacheStore, _: str) -> Log:
    for token in ("0", "1", "2", "3"):
        store.beat({"job": token}, 60, frozenset())
    return []


def join(store: CacheStore, name: str) -> Log:
    job = store.create(draft(f"job {name}"), "key")
    assert job.merge_key == "key"
    return [f"joined {job.id}"]


def join_and_end(store: CacheStore, name: str) -> Log:
    log = join(store, name)
    store.change(log[0].removeprefix("joined "), Expect(), ended(completed()))
    return log


def join_and_end_and_join(store: CacheStore, name: str) -> Log:
    return join_and_end(store, name) + join(store, f"{name} again")


def join_and_free(store: CacheStore, name: str) -> Log:
    log = join(store, name)
    store.change(log[0].removeprefix("joined "), Expect(), Changes(free_merge_key=True))
    return log


Actions: TypeAlias = st.SearchStrategy[list[Action]]
Orders: TypeAlias = st.SearchStrategy[list[int]]

WORKERS: Final[Actions] = st.lists(st.sampled_from((claim, claim_and_work, cancel, take, beat)), min_size=2, max_size=4)
JOINERS: Final[Actions] = st.lists(
    st.sampled_from((join, join_and_end, join_and_end_and_join, join_and_free, take)), min_size=2, max_size=4
)
ORDERS: Final[Orders] = st.lists(st.integers(0, STALLED), max_size=150)
STALLING_ORDERS: Final[Orders] = st.lists(st.integers(0, STALLED + 12), max_size=150)


def play(actions: list[Action], order: list[int], *first: Draft) -> tuple[CacheStore, Log]:
    """Run each action in its own process. Returns the store of one more process, and the log of all actions."""
    clock, cache = FakeClock(), Turns()
    for job in first:
        CacheStore(cache, clock=clock).create(job)
    calls = {
        f"{number}": partial(action, CacheStore(cache, clock=clock), f"{number}")
        for number, action in enumerate(actions)
    }
    logs = cache.run(calls, order, lambda number: cache.expire(LINGER) if number > STALLED else None)
    return CacheStore(cache, clock=clock), [entry for log in logs for entry in log]


def logged(log: Log, word: str) -> list[str]:
    """The rest of each log entry that begins with this word."""
    return [entry.removeprefix(f"{word} ") for entry in log if entry.startswith(f"{word} ")]


class TestAnyOrder:
    """The calls to the cache are made in any order."""

    examples = 30

    def run(self, check: Callable[[list[Action], list[int]], None], actions: Actions, orders: Orders) -> None:
        quietly = settings(max_examples=self.examples, deadline=None, suppress_health_check=(HealthCheck.too_slow,))
        quietly(given(actions, orders)(check))()

    def test_one_claim_and_one_end_win_and_no_output_is_lost(self) -> None:
        def check(actions: list[Action], order: list[int]) -> None:
            store, log = play(actions, order, draft("job"))
            job = store.get("job")
            assert job is not None
            assert logged(log, "claimed") == ([] if job.token is None else [job.token])
            assert logged(log, "ended") == ([job.status.name] if job.status.is_final else [])
            assert len(logged(log, "taken")) <= 1
            text = "".join(logged(log, "wrote"))
            assert store.output("job") == Output(text, len(text))

        self.run(check, WORKERS, ORDERS)

    def test_a_writer_that_stalls_for_an_hour_wins_nothing_that_others_have_won(self) -> None:
        def check(actions: list[Action], order: list[int]) -> None:
            _, log = play(actions, order, draft("job"))
            assert len(logged(log, "claimed")) <= 1
            assert len(logged(log, "ended")) <= 1

        self.run(check, WORKERS, STALLING_ORDERS)

    def test_one_job_has_a_merge_key_and_find_returns_every_unfinished_job(self) -> None:
        def check(actions: list[Action], order: list[int]) -> None:
            store, log = play(actions, order)
            joined = {job.id: job for job_id in logged(log, "joined") if (job := store.get(job_id)) is not None}
            assert set(joined) == set(logged(log, "joined"))
            assert len([job for job in joined.values() if job.merge_key is not None]) <= 1
            living = {job_id for job_id, job in joined.items() if not job.status.is_final}
            assert {job.id for job in store.find(Query(limit=100))} == living
            assert len(logged(log, "taken")) == len(set(logged(log, "taken")))

        self.run(check, JOINERS, ORDERS)

    def test_one_job_has_a_merge_key_even_after_stalls_of_an_hour(self) -> None:
        def check(actions: list[Action], order: list[int]) -> None:
            store, log = play(actions, order)
            holders = {
                job.id for name in logged(log, "joined") if (job := store.get(name)) is not None and job.merge_key
            }
            assert len(holders) <= 1

        self.run(check, JOINERS, STALLING_ORDERS)


@pytest.mark.nightly
class TestAnyOrderAtLength(TestAnyOrder):
    examples = 4000
