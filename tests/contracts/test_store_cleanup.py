"""Cleanup on every shared store that lists its jobs, by its server's real clock: both ages, and many jobs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from backjob.lifecycle import End, cancelled, claimed, completed, ended, failed
from backjob.model import Draft, Expect, Output, Report, Request
from backjob.protocols import Store
from backjob.testing import FakeClock
from tests.contracts.bulk_jobs import copy_id, copy_job
from tests.shared_stores import LISTING_STORES, SharedStore

DAY: Final = 86400.0
PATIENCE: Final = 300
MANY: Final = 30_000
ENDS: Final = {"completed": completed(), "failed": failed("broken"), "cancelled": cancelled()}

pytestmark = [
    pytest.mark.services,
    pytest.mark.timeout(PATIENCE + 60),
    pytest.mark.parametrize("shared", LISTING_STORES, ids=str),
]


@pytest.fixture
def url(shared: SharedStore, tmp_path: Path) -> Iterator[str]:
    with shared.place(tmp_path) as url:
        yield url


def days_ago(days: float) -> FakeClock:
    return FakeClock(datetime.now(UTC) - timedelta(days=days))


def draft(job_id: str, **fields: Any) -> Draft:
    return Draft(id=job_id, request=Request("GET", "/work"), **fields)


def end(store: Store, job_id: str, how: End, output: str = "") -> None:
    store.create(draft(job_id))
    store.change(job_id, *claimed("token", 1, 60))
    if output:
        store.report(job_id, "token", Report(output=output))
    assert store.change(job_id, Expect(token="token"), ended(how)) is not None


def test_each_age_is_measured_by_the_stores_own_clock(shared: SharedStore, url: str) -> None:
    with shared.open(url, days_ago(2)) as then:
        for name, how in ENDS.items():
            end(then, f"old {name}", how, "some output")
        then.create(draft("started", expires=10 * DAY))
        then.create(draft("running"))
        then.change("running", *claimed("token", 1, 60))
    with shared.open(url) as store:
        for name, how in ENDS.items():
            end(store, f"new {name}", how)

        def left() -> set[str]:
            names = [f"{age} {name}" for age in ("old", "new") for name in ENDS] + ["started", "running"]
            return {name for name in names if store.get(name) is not None}

        everything = left()
        assert len(everything) == 8
        for ages in ((0, 0), (3 * DAY, 0), (0, 3 * DAY), (3 * DAY, 4 * DAY)):
            assert store.purge(*ages) == 0
            assert left() == everything
        assert store.purge(DAY, 0) == 1
        assert left() == everything - {"old completed"}
        assert store.purge(DAY, 3 * DAY) == 0
        assert store.purge(0, DAY) == 2
        assert left() == {"new completed", "new failed", "new cancelled", "started", "running"}
        assert store.purge(DAY, DAY) == 0
        assert store.output("old failed") == Output("", 0)


@pytest.mark.slow
def test_two_concurrent_purges_remove_each_job_once(shared: SharedStore, url: str) -> None:
    many = 3000
    with shared.open(url, days_ago(2)) as then:
        end(then, "bulk 000000", completed(), "some output")
    copy_job(url, "bulk 000000", many - 1)
    with (
        shared.open(url) as one,
        shared.open(url) as other,
        ThreadPoolExecutor(2) as pool,
    ):
        purges = [pool.submit(store.purge, DAY, DAY) for store in (one, other)]
        assert sum([purge.result(PATIENCE) for purge in purges]) == many
        assert [number for number in range(0, many, 50) if one.get(copy_id("bulk 000000", number)) is not None] == []


SAMPLES: Final = 40  # sample of purged jobs; the missing ones show how far a purge has come


@pytest.mark.slow
def test_a_large_purge_works_in_batches_and_does_not_block_writers(shared: SharedStore, url: str) -> None:
    with shared.open(url, days_ago(2)) as then:
        end(then, "bulk 000000", completed(), "some output\n" * 20)
    copy_job(url, "bulk 000000", MANY - 1)
    samples = [copy_id("bulk 000000", number) for number in range(0, MANY, MANY // SAMPLES)]
    stages, is_over = [0], threading.Event()
    claims_at: list[int] = []
    with shared.open(url) as cleaner, shared.open(url) as claimer, shared.open(url) as reader:
        assert claimer.output(samples[-1], 0, 100).text.startswith("some output\n")
        claimer.create(draft("read"))

        def claim() -> None:
            number = 0
            while not is_over.is_set():
                claimer.create(draft(f"live {number}"))
                assert claimer.change(f"live {number}", *claimed("token", 1, 60)) is not None
                claims_at.append(stages[-1])
                number += 1

        def read() -> None:
            while not is_over.is_set():
                assert reader.get("read") is not None
                stages.append(sum([reader.get(sample) is None for sample in samples]))

        with ThreadPoolExecutor(3) as pool:
            workers = [pool.submit(claim), pool.submit(read)]
            try:
                removed = pool.submit(cleaner.purge, DAY, 0).result(PATIENCE)
            finally:
                is_over.set()
            for worker in workers:
                worker.result(PATIENCE)
        assert removed == MANY
        # A single transaction would show all of it at once, and writers would wait for its end.
        assert len(set(stages) - {0, SAMPLES}) >= 5, stages
        assert len([stage for stage in claims_at if 0 < stage < SAMPLES]) >= 5, claims_at
        assert cleaner.get("live 0") is not None
        assert cleaner.purge(DAY, DAY) == 0
