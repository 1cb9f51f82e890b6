"""Measures how costs grow with the work done, and draws it: ``python -m tests.benchmarks.picture FILE.svg``.

The last of the four charts is the forecast of `tests.benchmarks.simulate`; the others are measured here. ``--ended`` and
``--kilobytes`` say up to how many ended jobs and to how much output.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

from tqdm import tqdm

from backjob.model import Report
from tests.benchmarks.charts import Chart, Line, drawn
from tests.benchmarks.kinds import STORES, StoreKind, open_raw
from tests.benchmarks.measuring import timed
from tests.benchmarks.simulate import MEASURED, forecast
from tests.benchmarks.simulate import Site as SimulatedSite
from tests.benchmarks.site import Site, open_site

__all__ = ["main", "measured"]

_STARTS: Final = 100
_MOST_ROWS: Final = 1_000_000
_SEVERAL: Final = 9
_HOSTS: Final = (1, 3, 10, 30, 100, 300, 1000)


def measured(stores: Sequence[StoreKind], ended: int, kilobytes: int) -> list[Chart]:
    """The charts for these stores."""
    jobs, output = list[Line](), list[Line]()
    for kind in stores:
        print(f"measuring {kind.name}", file=sys.stderr, flush=True)
        jobs.append(Line(kind.name, tuple(_jobs(kind, list(_amounts(ended))))))
        with tempfile.TemporaryDirectory() as directory, open_site(kind, "waitress", Path(directory)) as site:
            output.append(Line(kind.name, tuple(_appends(site, kilobytes))))
    return [
        Chart(title="Jobs", amount="ended jobs in the store", cost="ms from start() to the end", lines=tuple(jobs)),
        Chart(
            title="Rows",
            amount="rows of a loop",
            cost="µs that each row takes longer",
            lines=tuple(_rows()),
            is_logarithmic=True,
        ),
        Chart(title="Output", amount="kB of output so far", cost="µs to append 1 kB", lines=tuple(output)),
        Chart(
            title="Hosts, as forecast",
            amount="hosts with 2 processors each",
            cost="jobs a second that do nothing",
            lines=tuple(_forecasts()),
            is_logarithmic=True,
        ),
    ]


def _amounts(most: int) -> Iterable[int]:
    amount = 1
    while amount < most:
        yield amount
        amount *= 100
    yield most


def _jobs(kind: StoreKind, amounts: Sequence[int]) -> Iterable[tuple[float, float]]:
    """The median time (ms) from a start to the end of a job, with so many ended ones; all stores in turns."""
    with ExitStack() as stack:
        sites: list[Site] = []
        for ended in amounts:
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            site = stack.enter_context(open_site(kind, "waitress", Path(directory)))
            _start_to_end(site)
            raw = stack.enter_context(closing(open_raw(site.store)))
            if ended > 1:
                raw.fill(ended - 1)
            sites.append(site)
        turns = [[_start_to_end(site) for site in sites] for _ in range(_STARTS)]
    for ended, taken in zip(amounts, zip(*turns[_SEVERAL:], strict=True), strict=True):
        yield ended, 1e3 * median(taken)


def _start_to_end(site: Site) -> float:
    begin = time.monotonic()
    site.start()
    ended = site.end_of_job()
    site.drain()
    return ended - begin


def _appends(site: Site, kilobytes: int) -> Iterable[tuple[float, float]]:
    """The median time (µs) of an append at 1, 10, … kB, in several jobs."""
    report, jobs = Report(output="x" * 1000), list[list[float]]()
    for _ in range(_SEVERAL):
        running = site.running()
        append = partial(site.jobs.store.report, running.job.id, running.token, report)
        jobs.append([timed(append) for _ in range(kilobytes if len(jobs) == 1 else kilobytes // 10)])
    at = 1
    while at <= kilobytes:
        around = [taken for job in jobs[1:] for taken in job[max(0, at - max(_SEVERAL, at // 10)) : at + _SEVERAL]]
        yield at, 1e6 * median(around)
        at *= 10


def _rows() -> Iterable[Line]:
    """How much longer (µs) a row of a loop takes that reports each row, on SQLite."""
    with (
        tempfile.TemporaryDirectory() as directory,
        open_site(STORES["sqlite"], "waitress", Path(directory)) as site,
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
    ):
        loops: dict[str, Callable[[int], object]] = {
            "update()": lambda rows: _updating(site, rows),
            "track()": lambda rows: _exhaust(site.jobs.track(range(rows))),
            "tqdm": lambda rows: _exhaust(tqdm(range(rows), file=nowhere)),
        }
        for name, loop in loops.items():
            points, rows = list[tuple[float, float]](), 10
            while rows <= _MOST_ROWS:
                rounds = max(3, min(_SEVERAL, _MOST_ROWS // rows))
                longer = median([_longer(site, loop, rows) for _ in range(rounds)])
                points.append((rows, max(1e-3, 1e6 * longer / rows)))
                rows *= 10
            yield Line(name, tuple(points))


def _longer(site: Site, loop: Callable[[int], object], rows: int) -> float:
    running = site.running()
    with running.active():
        taken = timed(lambda: loop(rows)) + timed(running.flush)
    return taken - timed(lambda: _exhaust(range(rows)))


def _updating(site: Site, rows: int) -> None:
    update = site.jobs.update
    for number in range(rows):
        update(number, total=rows)


def _exhaust(rows: Iterable[int]) -> None:
    for _ in rows:
        pass


def _forecasts() -> Iterable[Line]:
    for name, costs in MEASURED.items():
        if name != "SQLite":  # which hosts can't share
            yield Line(name, tuple([(hosts, forecast(costs, SimulatedSite(hosts=hosts)).rate) for hosts in _HOSTS]))


def main(arguments: Sequence[str]) -> None:
    """Measure, and write the picture."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser("python -m tests.benchmarks.picture", description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--stores", nargs="+", choices=STORES, default=list(STORES))
    parser.add_argument("--ended", type=int, default=1_000_000)
    parser.add_argument("--kilobytes", type=int, default=10_000)
    chosen = parser.parse_args(arguments)
    charts = measured([STORES[name] for name in chosen.stores], chosen.ended, chosen.kilobytes)
    chosen.file.write_text(drawn(charts, "How backjob's costs grow with the work done"), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
