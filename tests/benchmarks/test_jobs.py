"""The cost of starting and running a job, in one process and across two."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from time import perf_counter
from typing import Final

import pytest

from tests.benchmarks.commands import CLIENT_THREADS, Start
from tests.benchmarks.kinds import STORES
from tests.benchmarks.processes import SERVED, Processes, Work, open_processes
from tests.benchmarks.table import Figure, Table, seconds

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(300)]

_JOBS: Final = 150
_ROUNDS: Final = 7
_RESTS: Final = (0.0, 0.02, 0.1)
_MAX_TIME: Final = 3.0  # s, for each of the rests
_MOST_STARTS: Final = 200
_WARM_UP: Final = 5

_BY_HAND: Final = f"insert, request by {CLIENT_THREADS} threads, two updates"
_LEAST_JOBS: Final = {"SQLite": 0.8, "PostgreSQL": 0.7, "Redis": 0.7}
"""The target for jobs a second, as a part of what the same work by hand achieves."""
_FIRST_LINE: Final = {"one process": 1.4, "two processes": 2.0}


@pytest.fixture(scope="module", params=list(SERVED))
def where(request: pytest.FixtureRequest) -> str:
    """In how many processes jobs start and run."""
    return str(request.param)


@pytest.fixture(scope="module", params=STORES)
def processes(
    request: pytest.FixtureRequest, where: str, tmp_path_factory: pytest.TempPathFactory, table: Table
) -> Iterator[Processes]:
    """A site with an empty store."""
    with open_processes(STORES[request.param], where, tmp_path_factory.mktemp("jobs")) as opened:
        table.versions.add(opened.version)
        yield opened


def test_jobs_that_do_nothing(processes: Processes, where: str, table: Table) -> None:
    found = [(processes.many("backjob", _JOBS), processes.many("by hand", _JOBS)) for _ in range(_ROUNDS)]
    ours, by_hand = (_medians(column) for column in zip(*found, strict=True))
    store = processes.kind.name
    table.add(
        Figure(
            store=store,
            what=f"jobs a second, {where}",
            measured=by_hand.seconds / ours.seconds,
            target=_LEAST_JOBS.get(store),
            better="more",
            medians=f"{1 / ours.seconds:.0f}/s : {1 / by_hand.seconds:.0f}/s",
            beside=_BY_HAND,
        )
    )
    table.add(
        Figure(
            store=store,
            what=f"processor time of a job, {where}",
            measured=ours.processor / by_hand.processor,
            target=1.5,
            medians=f"{seconds(ours.processor)} : {seconds(by_hand.processor)}",
            beside=_BY_HAND,
        )
    )
    table.add(
        Figure(
            store=store,
            what=f"voluntary context switches of a job, {where}",
            measured=ours.switches / by_hand.switches,
            medians=f"{ours.switches:.1f} : {by_hand.switches:.1f}",
            beside=_BY_HAND,
        )
    )


@pytest.mark.parametrize("rest", _RESTS, ids=lambda rest: f"{1000 * rest:.0f}ms")
def test_from_the_start_to_the_first_line(processes: Processes, where: str, rest: float, table: Table) -> None:
    found: list[tuple[Start, Start]] = []
    until = perf_counter() + _MAX_TIME
    processes.tidy()
    while len(found) < _MOST_STARTS and perf_counter() < until:
        found.append((processes.first_line("backjob", rest), processes.first_line("by hand", rest)))
    ours, by_hand = (_median_start(column[_WARM_UP:]) for column in zip(*found, strict=True))
    store, after = processes.kind.name, f"after {1000 * rest:.0f} ms of rest, {where}"
    table.add(
        Figure(
            store=store,
            what=f"start() to the action's first line, {after}",
            measured=ours.first_line / by_hand.first_line,
            target=_FIRST_LINE[where],
            medians=f"{seconds(ours.first_line)} : {seconds(by_hand.first_line)}",
            beside="insert, and a request up to its first line",
        )
    )
    table.add(
        Figure(
            store=store,
            what=f"start() beyond the insert, {after}",
            measured=1e6 * (ours.call - by_hand.call),
            target=100,
            unit="µs",
            medians=f"{seconds(ours.call)} : {seconds(by_hand.call)}, {ours.call / by_hand.call:.1f} ×; "
            f"processor time {seconds(ours.own)} : {seconds(by_hand.own)}",
            beside="the bare insert; processor time of the calling thread",
            implausible=100,  # a busy machine delays the call by milliseconds
        )
    )


def _median_start(starts: tuple[Start, ...]) -> Start:
    return Start(
        median([start.call for start in starts]),
        median([start.own for start in starts]),
        median([start.first_line for start in starts]),
    )


def _medians(works: tuple[Work, ...]) -> Work:
    return Work(
        median([work.seconds for work in works]),
        median([work.processor for work in works]),
        median([work.switches for work in works]),
    )
