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

__all__ = ["MEASURED", "Costs", "Forecast", "Site", "calibrated", "forecast", "main", "measured"]

_RENEWAL_INTERVAL: Final = 2.0
"""Seconds between two renewals of run leases: a ninth of `RUN_LEASE`."""
_JOBS: Final = 1500
_LATENCY: Final = {"SQLite": 0.002, "PostgreSQL": 0.006, "MariaDB": 0.007, "Redis": 0.0025}
"""How long (s) a job without work has a place, on an idle machine."""


@frozen(kw_only=True)
class Costs:
    """Processor time in seconds. ``in_processes`` and ``in_store`` are those of a job that does nothing, from its start to its end.

    ``serial`` is the part that only one job at a time can have: all of Redis's, which has one thread, and SQLite's writes. The
    others are the store's for a regular call: a poll, a search for overdue jobs, a renewal of leases, and for each running job.
    """

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
        "processes": site.hosts * min(site.processes, site.cores) / of.in_processes,
        "store": free / in_store if in_store else math.inf,
        "store, one at a time": max(0.0, 1 - regular - renewals) / of.serial if of.serial else math.inf,
    }
    if site.store_cores is None:  # one machine for both
        rates["store"] = free / (of.in_processes + in_store)
    first = min(rates, key=lambda name: rates[name])
    calls = processes * (1 / _POLL_INTERVAL + 1 / _REAP_INTERVAL)
    return Forecast(rate=rates[first], first=first, idle=regular / store_cores, calls=calls)


_X = Costs(
    in_processes=0.0045,
    in_store=0.0014,
    serial=0,
    latency=0.006,
    poll=0.0001,
    search=0.0001,
    search_each=1.2e-6,
    renewal=0.00025,
    renewal_each=22e-6,
)
MEASURED: Final[dict[str, Costs]] = {
    "SQLite": evolve(_X, in_store=0, serial=0.0004),
    "PostgreSQL": _X,
    "MariaDB": _X,
    "Redis": _X,
}
"""As measured on two processors, see docs/scale.md."""


# --- measuring ------------------------------------------------------------------------------------------------------


def calibrated(name: str, one: Throughput, found: Iterable[Cost]) -> Costs:
    """The constants, from what one process took and what each operation costs."""
    by_name = {cost.what: cost for cost in found}

    def used(what: str) -> float:
        cost = by_name[what]
        return cost.in_process if cost.in_store is None else cost.in_store

    writes = sum(by_name[what].in_process for what in ("create", "take one due job", "claim", "end"))
    search, renewal = used("find no overdue job, 1 run"), used("renew 1 leases")
    return Costs(
        in_processes=one.in_processes,
        in_store=one.in_store,
        serial={"SQLite": writes, "Redis": one.in_store}.get(name, 0.0),
        latency=_LATENCY[name],
        poll=used("find no due job"),
        search=search,
        search_each=max(0.0, used("find no overdue job, 1,000 run") - search) / 999,
        renewal=renewal,
        renewal_each=max(0.0, used("renew 1,000 leases") - renewal) / 999,
    )


def measured(name: str, processes: int = 1, jobs: int = _JOBS) -> Throughput:
    """Run jobs on this machine, in a new store of this kind."""
    with tempfile.TemporaryDirectory() as directory, metered_store(name, Path(directory)) as store:
        return measure(store, processes, jobs, Path(directory))


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
            rounds = [measured(name) for _ in range(3)]
            one = max(rounds, key=lambda one: one.rate)
            print(f'    "{name}": {calibrated(name, one, [*costs(name), *growth(name)])},', flush=True)
        else:
            print(f"\n{name}\n\n{_table(name, MEASURED[name])}")


if __name__ == "__main__":
    main(sys.argv[1:])
