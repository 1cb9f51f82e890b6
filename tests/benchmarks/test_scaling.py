"""The model of `tests.benchmarks.simulate` against this machine: one, two and four processes, and what idle ones do."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from attrs import evolve

from tests.benchmarks.metered import METERED, metered_store
from tests.benchmarks.scaling import site
from tests.benchmarks.simulate import MEASURED, Site, fastest, forecast, one_at_a_time

PROCESSES: Final = (1, 2, 4)
TOLERANCE: Final = 0.2
RIPE_AFTER: Final = 20.0
"""Seconds after which a process may end the jobs of others, and searches for them: a run lease and some more."""
IDLE_FOR: Final = 30.0  # s; after a minute without requests processes call less and less often


@pytest.mark.benchmark
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", METERED)
def test_the_model_forecasts_one_two_and_four_processes(name: str) -> None:
    found = fastest(name, PROCESSES)
    best = {count: runs[0] for count, runs in found.items()}
    # Of this machine: how fast one process is, and what a job takes if two use all processors.
    costs = evolve(
        MEASURED[name],
        alone=1 / best[1].rate,
        in_processes=best[2].in_processes,
        in_store=best[2].in_store,
        serial=one_at_a_time(name, best[2]),
    )
    errors = {}
    for count, one in best.items():
        expected = forecast(costs, Site(processes=count, cores=os.cpu_count() or 1, places=8, store_cores=None))
        errors[count] = one.rate / expected.rate - 1
        rates = ", ".join(f"{each.rate:.0f}" for each in found[count])
        print(
            f"{name}, {count} processes: {one.rate:.0f}/s ({rates}), forecast {expected.rate:.0f}/s ({expected.first}): "
            f"{100 * errors[count]:+.0f} %; a job takes {1e3 * one.in_processes:.2f} ms of processors in the processes, "
            f"{1e3 * one.in_store:.2f} ms in the store; {one.cores:.1f} processors busy, load {os.getloadavg()[0]:.1f}"
        )
    assert {count: error for count, error in errors.items() if abs(error) > TOLERANCE} == {}


@pytest.mark.parametrize("name", [name for name in MEASURED if name != "SQLite"])  # which no hosts share
def test_more_hosts_help_until_the_store_is_busy_first(name: str) -> None:
    few, more, most = (forecast(MEASURED[name], Site(hosts=hosts)) for hosts in (1, 2, 1000))
    assert more.rate == pytest.approx(2 * few.rate)
    assert few.first.startswith("process")
    assert most.first.startswith("store")
    assert most.rate < 4 / MEASURED[name].in_store
    assert most.calls == pytest.approx(1000 * few.calls)
    assert most.idle == pytest.approx(1000 * few.idle)


@pytest.mark.benchmark
def test_the_model_forecasts_the_calls_of_idle_processes(tmp_path: Path) -> None:
    with metered_store("Redis", tmp_path) as store, ExitStack() as stack:
        client = stack.enter_context(closing(redis.Redis.from_url(store.url)))
        for _ in range(max(PROCESSES)):
            stack.enter_context(site(store.url, tmp_path))

        def calls() -> int:
            info: Any = client.info("commandstats")
            return int(info["cmdstat_evalsha"]["calls"])

        time.sleep(RIPE_AFTER)
        before = calls()
        time.sleep(IDLE_FOR)  # the measurement itself
        rate = (calls() - before) / IDLE_FOR
    expected = forecast(MEASURED["Redis"], Site(processes=max(PROCESSES))).calls
    print(f"{max(PROCESSES)} idle processes call the store {rate:.2f} times a second, forecast {expected:.2f}")
    assert abs(rate / expected - 1) <= TOLERANCE
