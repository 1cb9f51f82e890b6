"""How many coalesced reports of 1,000 running jobs a process writes in a second."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import count, cycle
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

import pytest

from backjob.worker.running import Running
from tests.benchmarks.kinds import StoreKind
from tests.benchmarks.site import Site, open_site
from tests.benchmarks.table import Figure, Table

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(300)]

_JOBS: Final = 1000
_INTERVAL: Final = 0.1
"""Seconds between two reports of an action, the interval in which the reports of a job are combined: faster ones write no more."""
_WINDOW: Final = 1.5  # s
_ROUNDS: Final = 2
_LEAST: Final = {"SQLite": 5000}


@pytest.fixture
def site(store: StoreKind, tmp_path: Path, table: Table) -> Iterator[Site]:
    with open_site(store, "waitress", tmp_path) as opened:
        table.versions.add(opened.raw.version)
        yield opened


def test_a_thousand_running_jobs_that_report(site: Site, table: Table) -> None:
    runnings = [site.running() for _ in range(_JOBS)]
    raw_ids = [site.raw.insert(site.raw.row()) for _ in range(_JOBS)]
    found = [(_reports(site, runnings), _updates(site, raw_ids)) for _ in range(_ROUNDS)]
    ours, by_hand = (median(column) for column in zip(*found, strict=True))
    table.add(
        Figure(
            store=site.kind.name,
            what=f"coalesced reports of {_JOBS:,} running jobs, written in a second",
            measured=ours,
            target=_LEAST.get(site.kind.name),
            unit="/s",
            better="more",
            medians=f"{ours:,.0f} : {by_hand:,.0f}, {ours / by_hand:.2f} ×",
            beside=f"UPDATEs one after the other; the jobs report {_JOBS / _INTERVAL:,.0f} times a second",
        )
    )


def _reports(site: Site, runnings: list[Running]) -> float:
    """How many reports are written in a second, while each of the jobs reports as a coroutine of its own."""
    before, begin = _writes(site, runnings), perf_counter()
    asyncio.run(_all_report(site, runnings))
    for running in runnings:
        running.flush()
    taken = perf_counter() - begin
    return (_writes(site, runnings) - before) / taken


async def _all_report(site: Site, runnings: list[Running]) -> None:
    until = perf_counter() + _WINDOW

    async def action(running: Running) -> None:
        numbers = count(1)
        with running.active():
            while perf_counter() < until:
                number = next(numbers)
                site.jobs.update(number % 100, f"row {number}")
                await asyncio.sleep(_INTERVAL)

    await asyncio.gather(*[action(running) for running in runnings])


def _writes(site: Site, runnings: list[Running]) -> int:
    """How often the rows of these jobs have been written: each write of a report raises the version."""
    jobs = [site.jobs.store.get(running.job.id) for running in runnings]
    return sum(job.version for job in jobs if job is not None)


def _updates(site: Site, raw_ids: list[str]) -> float:
    """How many UPDATEs the plain driver commits in a second."""
    number, ids, begin = 0, cycle(raw_ids), perf_counter()
    while (taken := perf_counter() - begin) < _WINDOW:
        number += 1
        site.raw.report(next(ids), number % 100, f"row {number}", b"", 0)
    return number / taken
