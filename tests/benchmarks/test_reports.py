"""The cost of an action's own calls, and of reading a job."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from tqdm import tqdm

from backjob.model import Report
from tests.benchmarks.measuring import median_of, side_by_side, timed
from tests.benchmarks.site import Site
from tests.benchmarks.table import Figure, Table, seconds

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(600)]

_ROUNDS = 500
_LINE = "x" * 99 + "\n"
_MANY = 200_000
_APPENDS = 1000
_ROWS = 50_000
_SEVERAL = 5
_JOBS = 20
_MIN_JOBS = 5
_MAX_TIME = 10.0  # s


_ANY_STORE = pytest.mark.parametrize("store", ["sqlite"], indirect=True)
"""For benchmarks that write to no store."""


@pytest.fixture
def site(empty_site: Site) -> Site:
    return empty_site


def test_an_update_that_writes(site: Site, benchmark: BenchmarkFixture, table: Table) -> None:
    running = site.running()
    raw_id = site.raw.insert(site.raw.row())
    numbers = count()

    def ours() -> None:
        number = next(numbers)
        site.jobs.echo(_LINE)
        site.jobs.update(number % 100, f"row {number}")
        running.write_now()

    def raw() -> float:
        number = next(numbers)
        return timed(lambda: site.raw.report(raw_id, number % 100, f"row {number}", _LINE.encode(), number))

    with running.active():
        pair = side_by_side(benchmark, ours, raw, rounds=_ROUNDS)
    table.add(
        Figure(
            store=site.kind.name,
            what="update() that writes, with output",
            measured=pair.ratio,
            target=1.5,
            medians=f"{seconds(pair.ours)} : {seconds(pair.raw)}",
            beside=site.kind.committed,
        )
    )


@_ANY_STORE
def test_an_update_that_is_coalesced(site: Site, benchmark: BenchmarkFixture, table: Table) -> None:
    update = site.jobs.update

    def ours() -> None:
        for number in range(_MANY):
            update(number & 63)

    with site.running().active():
        each = median_of(benchmark, ours, rounds=9, warmup_rounds=1) / _MANY
    table.add(Figure(what="update() that is coalesced", measured=each * 1e6, target=1, unit="µs"))


def test_a_text_in_every_row(site: Site, benchmark: BenchmarkFixture, table: Table) -> None:
    update = site.jobs.update

    def ours() -> None:
        for number in range(_ROWS):
            update(number, f"row {number}", total=_ROWS)

    def progress_alone() -> float:
        def loop() -> None:
            for number in range(_ROWS):
                update(number, total=_ROWS)
                f"row {number}"

        return timed(loop)

    with site.running().active():
        pair = side_by_side(benchmark, ours, progress_alone, rounds=9)
    table.add(
        Figure(
            store=site.kind.name,
            what="update() with a text in every row",
            measured=pair.ratio,
            target=3,
            medians=f"{seconds(pair.ours / _ROWS)} : {seconds(pair.raw / _ROWS)}",
            beside="the same without a text",
        )
    )


@_ANY_STORE
def test_an_iteration_of_track(site: Site, benchmark: BenchmarkFixture, table: Table) -> None:
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, site.running().active():

        def ours() -> None:
            _exhaust(site.jobs.track(range(_MANY)))

        def raw() -> float:
            return timed(lambda: _exhaust(tqdm(range(_MANY), file=nowhere)))

        pair = side_by_side(benchmark, ours, raw, rounds=9)
    table.add(
        Figure(
            what="one iteration of track()",
            measured=pair.ratio,
            target=1,
            medians=f"{seconds(pair.ours / _MANY)} : {seconds(pair.raw / _MANY)}",
            beside="tqdm",
        )
    )


def _exhaust(rows: Iterable[int]) -> None:
    for _ in rows:
        pass


def test_the_thousandth_append(site: Site, table: Table) -> None:
    store = site.jobs.store
    kilobyte = Report(output="x" * 1000)
    firsts: list[float] = []
    lasts: list[float] = []
    until = time.monotonic() + _MAX_TIME
    for turn in range(_JOBS):
        if turn >= _MIN_JOBS and time.monotonic() > until:
            break
        running = site.running()
        append = partial(store.report, running.job.id, running.token, kilobyte)
        taken = [timed(append) for _ in range(_APPENDS)]
        firsts += taken[:_SEVERAL]
        lasts += taken[-_SEVERAL:]
    first, last = median(firsts), median(lasts)
    table.add(
        Figure(
            store=site.kind.name,
            what="the 1,000th append of 1 kB",
            measured=last / first,
            target=1.1,
            medians=f"{seconds(last)} : {seconds(first)}",
            beside="the first one",
        )
    )


def test_reading_the_status(site: Site, benchmark: BenchmarkFixture, table: Table) -> None:
    job_id = site.start()
    site.end_of_job()
    raw_id = site.raw.insert(site.raw.row())
    pair = side_by_side(
        benchmark,
        lambda: site.jobs.status(job_id),
        lambda: timed(lambda: site.raw.select(raw_id)),
        rounds=2000,
    )
    table.add(
        Figure(
            store=site.kind.name,
            what="status() without output",
            measured=pair.ratio,
            target=4,
            medians=f"{seconds(pair.ours)} : {seconds(pair.raw)}",
            beside=site.kind.selected,
        )
    )
