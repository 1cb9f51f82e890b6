"""Writers of jobs in a cache that stall between any two calls to it, in any order of these calls."""

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
Deed: TypeAlias = Callable[[CacheStore, str], Log]

STALLED: Final = 50
"""Numbers in an order beyond this one: an hour passes, and whoever waits now has stalled for that long."""


def draft(job_id: str) -> Draft:
    return Draft(id=job_id, request=Request("GET", "/work"))


def claim(store: CacheStore, name: str) -> Log:
    return [] if store.change("job", *claimed(name)) is None else [f"claimed {name}"]


def claim_and_work(store: CacheStore, name: str) -> Log:
    log = claim(store, name)
    if not log:
        return log
    for number in range(2):
        if store.report("job", name, Report(output=f"{name}{number};")):
            log.append(f"said {name}{number};")
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
        store.beat({"job": token})
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


Deeds: TypeAlias = st.SearchStrategy[list[Deed]]
Orders: TypeAlias = st.SearchStrategy[list[int]]

WORKERS: Final[Deeds] = st.lists(st.sampled_from((claim, claim_and_work, cancel, take, beat)), min_size=2, max_size=4)
JOINERS: Final[Deeds] = st.lists(
    st.sampled_from((join, join_and_end, join_and_end_and_join, join_and_free, take)), min_size=2, max_size=4
)
ORDERS: Final[Orders] = st.lists(st.integers(0, STALLED), max_size=150)
STALLING_ORDERS: Final[Orders] = st.lists(st.integers(0, STALLED + 12), max_size=150)


def play(deeds: list[Deed], order: list[int], *first: Draft) -> tuple[CacheStore, Log]:
    """Let each do its deed in a process of its own; what another process sees afterwards, and what they report."""
    clock, cache = FakeClock(), Turns()
    for job in first:
        CacheStore(cache, clock=clock).create(job)
    calls = {
        f"{number}": partial(deed, CacheStore(cache, clock=clock), f"{number}") for number, deed in enumerate(deeds)
    }
    logs = cache.run(calls, order, lambda number: cache.expire(LINGER) if number > STALLED else None)
    return CacheStore(cache, clock=clock), [entry for log in logs for entry in log]


def said(log: Log, word: str) -> list[str]:
    """What the entries of the log that begin with this word go on with."""
    return [entry.removeprefix(f"{word} ") for entry in log if entry.startswith(f"{word} ")]


class TestAnyOrder:
    """Whatever the order of single calls to the cache."""

    examples = 150

    def run(self, check: Callable[[list[Deed], list[int]], None], deeds: Deeds, orders: Orders) -> None:
        quietly = settings(max_examples=self.examples, deadline=None, suppress_health_check=(HealthCheck.too_slow,))
        quietly(given(deeds, orders)(check))()

    def test_one_claim_wins_one_end_stands_and_no_output_is_lost(self) -> None:
        def check(deeds: list[Deed], order: list[int]) -> None:
            store, log = play(deeds, order, draft("job"))
            job = store.get("job")
            assert job is not None
            assert said(log, "claimed") == ([] if job.token is None else [job.token])
            assert said(log, "ended") == ([job.status.name] if job.status.is_final else [])
            assert len(said(log, "taken")) <= 1
            text = "".join(said(log, "said"))
            assert store.output("job") == Output(text, len(text))

        self.run(check, WORKERS, ORDERS)

    def test_who_stalled_for_an_hour_wins_nothing_that_others_have_won(self) -> None:
        def check(deeds: list[Deed], order: list[int]) -> None:
            _, log = play(deeds, order, draft("job"))
            assert len(said(log, "claimed")) <= 1
            assert len(said(log, "ended")) <= 1

        self.run(check, WORKERS, STALLING_ORDERS)

    def test_a_merge_key_is_held_by_one_job_and_every_job_is_known_to_whoever_looks(self) -> None:
        def check(deeds: list[Deed], order: list[int]) -> None:
            store, log = play(deeds, order)
            joined = {job.id: job for job_id in said(log, "joined") if (job := store.get(job_id)) is not None}
            assert set(joined) == set(said(log, "joined"))
            assert len([job for job in joined.values() if job.merge_key is not None]) <= 1
            living = {job_id for job_id, job in joined.items() if not job.status.is_final}
            assert {job.id for job in store.find(Query(limit=100))} == living
            assert len(said(log, "taken")) == len(set(said(log, "taken")))

        self.run(check, JOINERS, ORDERS)

    def test_a_merge_key_is_held_by_one_job_though_some_stalled_for_an_hour(self) -> None:
        def check(deeds: list[Deed], order: list[int]) -> None:
            store, log = play(deeds, order)
            holders = {job.id for name in said(log, "joined") if (job := store.get(name)) is not None and job.merge_key}
            assert len(holders) <= 1

        self.run(check, JOINERS, STALLING_ORDERS)


@pytest.mark.slow
class TestAnyOrderAtLength(TestAnyOrder):
    examples = 4000
