"""How many jobs a second a site of 1 to 1,000 hosts runs, and which part is busy first: ``python -m tests.benchmarks.simulate``.

An analytic model. A job and each regular call take processor time in the processes and in the store, which is measured on one
machine; the part that is busy first sets the rate. ``--measure`` measures the constants of this machine again and prints them.
docs/scale.md explains the model and what it leaves out.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from attrs import evolve, frozen

from backjob.delivery.monitor import _POLL_INTERVAL, _REAP_INTERVAL
from tests.benchmarks.metered import METERED, metered_store
from tests.benchmarks.operations import Cost, costs, growth
from tests.benchmarks.scaling import Throughput, measure

__all__ = ["MEASURED", "Costs", "Forecast", "Site", "calibrated", "fastest", "forecast", "main", "one_at_a_time"]

_RENEWAL_INTERVAL: Final = 2.0
"""Seconds between two renewals of run leases: a ninth of `RUN_LEASE`."""
_JOBS: Final = 800
_ROUNDS: Final = 5


@frozen(kw_only=True)
class Costs:
    """Processor time in seconds. ``in_processes`` and ``in_store`` are those of a job that does nothing, from its start to its end.

    ``alone`` is the time (s) in which one process, whose threads share the interpreter, runs one more job. ``serial`` is the part of a
    job that only one at a time can have: all of Redis's, which has one thread, and of SQLite's what the lock of its file takes. ``latency`` is how long (s) a
    job without work has its place on an idle machine, from docs/benchmarks.md. The others are the store's, for a regular call: a
    poll, a search for overdue jobs and a renewal of leases, the last two also for each running job.
    """

    alone: float
    in_processes: float
    in_store: float
    serial: float
    latency: float
    poll: float
    search: float
    search_each: float
    renewal: float
    renewal_each: float


@frozen(kw_only=True)
class Site:
    """``processes``, ``cores`` and ``places`` are those of each host or process. ``work`` is how long an action waits (s), without
    using a processor. ``store_cores``: the processors of the store's machine; None if it is the only host itself.
    """

    hosts: int = 1
    processes: int = 2
    cores: int = 2
    places: int = 4
    work: float = 0.0
    store_cores: int | None = 4


@frozen(kw_only=True)
class Forecast:
    """``rate`` is in jobs a second, ``first`` the part that is busy first. ``idle`` is the share of the store's processors that the
    processes take while they have no jobs, but visitors; ``calls`` is how many calls a second these are.
    """

    rate: float
    first: str
    idle: float
    calls: float


def forecast(of: Costs, site: Site) -> Forecast:
    """What this site can do."""
    processes = site.hosts * site.processes
    store_cores = site.cores if site.store_cores is None else site.store_cores
    regular = processes * (of.poll / _POLL_INTERVAL + of.search / _REAP_INTERVAL)
    renewals = processes * of.renewal / _RENEWAL_INTERVAL
    # Every process searches all running jobs. So many run as start in the time that one takes.
    each_running = processes * of.search_each / _REAP_INTERVAL + of.renewal_each / _RENEWAL_INTERVAL
    in_store = of.in_store + each_running * (site.work + of.latency)
    free = max(0.0, store_cores - regular - renewals)
    rates = {
        "places": processes * site.places / (site.work + of.latency),
        "processes": processes / of.alone,
        "processors": site.hosts * site.cores / of.in_processes,
        "store": free / in_store if in_store else math.inf,
        "store, one at a time": max(0.0, 1 - regular - renewals) / of.serial if of.serial else math.inf,
    }
    if site.store_cores is None:  # one machine for both
        rates["processors"] = free / (of.in_processes + in_store)
    first = min(rates, key=lambda name: rates[name])
    calls = processes * (1 / _POLL_INTERVAL + 1 / _REAP_INTERVAL)
    return Forecast(rate=rates[first], first=first, idle=regular / store_cores, calls=calls)


MEASURED: Final = {
    "SQLite": Costs(
        alone=1 / 331,
        in_processes=2.64e-3,
        in_store=0.0e-3,
        serial=2.2e-3,
        latency=2e-3,
        poll=25e-6,
        search=26e-6,
        search_each=0.18e-6,
        renewal=25e-6,
        renewal_each=3.2e-6,
    ),
    "PostgreSQL": Costs(
        alone=1 / 260,
        in_processes=3.87e-3,
        in_store=1.24e-3,
        serial=0.0e-3,
        latency=6e-3,
        poll=100e-6,
        search=100e-6,
        search_each=1.2e-6,
        renewal=250e-6,
        renewal_each=24e-6,
    ),
    "MariaDB": Costs(
        alone=1 / 153,
        in_processes=6.54e-3,
        in_store=2.34e-3,
        serial=0.0e-3,
        latency=7e-3,
        poll=205e-6,
        search=359e-6,
        search_each=1.1e-6,
        renewal=462e-6,
        renewal_each=9.5e-6,
    ),
    "Redis": Costs(
        alone=1 / 306,
        in_processes=2.54e-3,
        in_store=0.64e-3,
        serial=0.64e-3,
        latency=2.5e-3,
        poll=80e-6,
        search=50e-6,
        search_each=0.0e-6,
        renewal=80e-6,
        renewal_each=10.6e-6,
    ),
}
"""As measured on two processors, see docs/scale.md."""


# --- measuring ------------------------------------------------------------------------------------------------------


def calibrated(name: str, one: Throughput, two: Throughput, found: Iterable[Cost]) -> Costs:
    """The constants: from what one process achieves, what a job takes when two use all processors, and what operations cost."""
    by_name = {cost.what: cost for cost in found}

    def used(what: str) -> float:
        cost = by_name[what]
        return cost.in_process if cost.in_store is None else cost.in_store

    search, renewal = used("find no overdue job, 1 run"), used("renew 1 leases")
    return Costs(
        alone=1 / one.rate,
        in_processes=two.in_processes,
        in_store=two.in_store,
        serial=one_at_a_time(name, two),
        latency=MEASURED[name].latency,
        poll=used("find no due job"),
        search=search,
        search_each=max(0.0, used("find no overdue job, 1,000 run") - search) / 999,
        renewal=renewal,
        renewal_each=max(0.0, used("renew 1,000 leases") - renewal) / 999,
    )


def one_at_a_time(name: str, two: Throughput) -> float:
    """The time (s) for which a job keeps all others out, from a run of two processes.

    Redis has one thread. Two processes with SQLite mostly wait for the lock of its file, also while nobody has it.
    """
    return {"SQLite": 1 / two.rate, "Redis": two.in_store}.get(name, 0.0)


def fastest(name: str, counts: Iterable[int]) -> dict[int, list[Throughput]]:
    """For each number of processes some runs on this machine, the fastest one first, in a new store of this kind.

    They take turns, and other work on this machine only slows them down.
    """
    found: dict[int, list[Throughput]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as directory, metered_store(name, Path(directory)) as store:
        for _ in range(_ROUNDS):
            for count, runs in found.items():
                runs.append(measure(store, count, _JOBS, Path(directory)))
    return {count: sorted(runs, key=lambda one: -one.rate) for count, runs in found.items()}


# --- printing -------------------------------------------------------------------------------------------------------


def _table(name: str, of: Costs) -> str:
    lines = [
        "| hosts | jobs of no work | busy first | jobs of 1 s | busy first | idle: calls | store |",
        "|" + "---|" * 7,
    ]
    for hosts in (1, 3, 10, 30, 100, 300, 1000):
        if name == "SQLite" and hosts > 1:
            break
        site = Site(hosts=hosts, store_cores=None if name == "SQLite" else 4)
        short, long = forecast(of, site), forecast(of, evolve(site, work=1.0))
        cells = [f"{hosts:,}", f"{short.rate:,.0f}/s", short.first, f"{long.rate:,.0f}/s", long.first]
        lines.append("| " + " | ".join([*cells, f"{short.calls:,.0f}/s", f"{100 * short.idle:.2g} %"]) + " |")
    return "\n".join(lines)


def main(arguments: Iterable[str]) -> None:
    """Print the forecasts, or measure the constants and print them."""
    names = [name for name in arguments if name in METERED] or list(METERED)
    for name in names:
        if "--measure" in arguments:
            runs = fastest(name, (1, 2))
            found = calibrated(name, runs[1][0], runs[2][0], [*costs(name), *growth(name)])
            print(f'    "{name}": {found},', flush=True)
        else:
            print(f"\n{name}\n\n{_table(name, MEASURED[name])}")


if __name__ == "__main__":
    main(sys.argv[1:])
