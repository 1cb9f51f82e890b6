"""What the run leases of 1,000 running jobs cost the other jobs of a store: at most 15 % of their time."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Final

import pytest

from backjob.lifecycle import claimed, completed, ended
from backjob.model import Draft, Expect, Report, Request
from backjob.protocols import Store
from tests.shared_stores import LISTING_STORES, SharedStore

JOBS: Final = 1000
LEASE: Final = 600.0  # s: longer than any pause of a busy machine
INTERVAL: Final = 2.0
"""Seconds between two renewals of one process."""
WINDOWS: Final = 8
MOST_WINDOWS: Final = 32
"""Other work on the machine may be in the way of some windows, so a figure that is too high is measured more often."""
ROUNDS: Final = 20
TARGET: Final = 1.15

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(300)]

_numbers = count()


def one_job(store: Store) -> float:
    """How long a job takes, from its creation to its end."""
    job_id, token = f"short {next(_numbers)}", "token"
    began = perf_counter()
    store.create(Draft(id=job_id, request=Request("GET", "/work")))
    assert store.change(job_id, *claimed(token, 1, LEASE))
    assert store.report(job_id, token, Report(progress=50))
    assert store.report(job_id, token, Report(output="50 rows\n"))
    assert store.change(job_id, Expect(token=token), ended(completed()))
    return perf_counter() - began


def window(store: Store) -> float:
    """How long a job takes on average, of those that pass one after the other in one interval, and at least some."""
    began, times = perf_counter(), list[float]()
    while len(times) < ROUNDS or perf_counter() - began < INTERVAL:
        times.append(one_job(store))
    return mean(times)


@contextmanager
def renewing(store: Store, tokens: dict[str, str]) -> Iterator[list[float]]:
    """Renew the leases of all these jobs every two seconds; yields how long each renewal took."""
    took: list[float] = []
    stop = threading.Event()

    def renew() -> None:
        while True:
            began = perf_counter()
            assert store.beat(tokens, LEASE, frozenset()) == frozenset()
            took.append(perf_counter() - began)
            if stop.wait(INTERVAL):
                return

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        yield took
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("shared", LISTING_STORES, ids=str)
def test_the_leases_of_a_thousand_running_jobs_slow_others_by_at_most_15_percent(
    shared: SharedStore, tmp_path: Path
) -> None:
    with shared.place(tmp_path) as url, shared.open(url) as store:
        tokens = {f"long {number}": "token" for number in range(JOBS)}
        for job_id, token in tokens.items():
            store.create(Draft(id=job_id, request=Request("GET", "/work")))
            assert store.change(job_id, *claimed(token, 1, LEASE))
        window(store)
        alone, beside, renewals = list[float](), list[float](), list[float]()
        ratio = math.inf
        while len(alone) < WINDOWS or (ratio > TARGET and len(alone) < MOST_WINDOWS):
            alone.append(window(store))  # in turns, so that a busy machine slows both
            with renewing(store, tokens) as took:
                beside.append(window(store))
            renewals += took
            ratio = median(beside) / median(alone)
    print(
        f"{shared}: {1e3 * median(beside):.2f} ms per job beside renewals, {1e3 * median(alone):.2f} ms without: "
        f"{ratio:.3f} in {len(alone)} windows; a renewal of {JOBS} jobs takes {1e3 * median(renewals):.0f} ms"
    )
    assert len(renewals) >= WINDOWS
    assert ratio <= TARGET
