"""The model of `tests.benchmarks.simulate` against this machine: one, two and four processes, and what idle ones do."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from attrs import evolve

from tests.benchmarks.metered import METERED, metered_store
from tests.benchmarks.scaling import Throughput, measure, site
from tests.benchmarks.simulate import MEASURED, Site, forecast

PROCESSES: Final = (1, 2, 4)
JOBS: Final = 1500
ROUNDS: Final = 3
TOLERANCE: Final = 0.2
RIPE_AFTER: Final = 20.0
"""Seconds after which a process may end the jobs of others, and searches for them: a run lease and some more."""
IDLE_FOR: Final = 30.0  # s; after a minute without requests processes call less and less often


@pytest.mark.benchmark
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", METERED)
def test_the_model_forecasts_one_two_and_four_processes(name: str) -> None:
    # In turns, and the fastest of each: other work on this machine only slows them down.
    found: dict[int, list[Throughput]] = {count: [] for count in PROCESSES}
    for _ in range(ROUNDS):
        for count in PROCESSES:
            with tempfile.TemporaryDirectory() as directory, metered_store(name, Path(directory)) as store:
                found[count].append(measure(store, count, JOBS, Path(directory)))
    best = {count: max(rounds, key=lambda one: one.rate) for count, rounds in found.items()}
    costs = evolve(MEASURED[name], in_processes=best[1].in_processes, in_store=best[1].in_store)
    errors = {}
    for count, one in best.items():
        expected = forecast(costs, Site(processes=count, cores=os.cpu_count() or 1, places=8, store_cores=None))
        errors[count] = one.rate / expected.rate - 1
        rates = " ".join(f"{each.rate:.0f}" for each in found[count])
        print(
            f"{name}, {count} processes: {one.rate:.0f}/s ({rates}), forecast {expected.rate:.0f}/s ({expected.first}): "
            f"{100 * errors[count]:+.0f} %; a job takes {1e3 * one.in_processes:.2f} ms of processors in the processes, "
            f"{1e3 * one.in_store:.2f} ms in the store; load {os.getloadavg()[0]:.1f}"
        )
    assert {count: error for count, error in errors.items() if abs(error) > TOLERANCE} == {}


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
