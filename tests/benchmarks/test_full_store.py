"""Check that a million ended jobs slow nothing down."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from typing import Final

import pytest

from backjob.model import Query, Report
from tests.benchmarks.measuring import alternating, timed
from tests.benchmarks.site import Site
from tests.benchmarks.table import Figure, Table, seconds

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(900)]

_ROUNDS = 150


def _start(site: Site) -> Callable[[], float]:
    def start() -> float:
        taken = timed(site.start)
        site.end_of_job()
        site.drain()
        return taken

    return start


def _start_to_end(site: Site) -> Callable[[], float]:
    def start_to_end() -> float:
        begin = time.monotonic()
        site.start()
        ended = site.end_of_job()
        site.drain()
        return ended - begin

    return start_to_end


def _update(site: Site) -> Callable[[], float]:
    running = site.running()
    numbers = count()
    store = site.jobs.store

    def update() -> float:
        report = Report(progress=next(numbers) % 100, text="under way", output="x" * 100)
        return timed(lambda: store.report(running.job.id, running.token, report))

    return update


def _status(site: Site) -> Callable[[], float]:
    job_id = site.start()
    site.end_of_job()
    return lambda: timed(lambda: site.jobs.status(job_id))


def _due_jobs(site: Site) -> Callable[[], float]:
    return lambda: timed(lambda: site.jobs.store.take_due("benchmark", 30.0, 100))


def _silent_jobs(site: Site) -> Callable[[], float]:
    return lambda: timed(lambda: site.jobs.store.find(Query(overdue=True, limit=100)))


_MEASURES: Final = {
    "start()": _start,
    "start() to the end": _start_to_end,
    "an update that writes, with output": _update,
    "status()": _status,
    "the monitor's query for due jobs": _due_jobs,
    "the monitor's query for silent jobs": _silent_jobs,
}


@pytest.mark.parametrize("what", _MEASURES)
def test_with_a_million_ended_jobs(what: str, full_site: Site, empty_site: Site, ended: int, table: Table) -> None:
    measure = _MEASURES[what]
    pair = alternating(measure(full_site), measure(empty_site), rounds=_ROUNDS)
    table.add(
        Figure(
            store=full_site.kind.name,
            what=f"with {ended:,} ended jobs: {what}",
            measured=pair.ratio,
            target=1.2,
            medians=f"{seconds(pair.ours)} : {seconds(pair.raw)}",
            beside="an empty store",
        )
    )
