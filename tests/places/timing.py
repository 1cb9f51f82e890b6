"""Measurements of places: the runs that `places_app` records, and the rate of the same work without jobs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from attrs import frozen

from tests.faults.killing import Herd
from tests.scenarios.sites import KEY

__all__ = ["Run", "bare_rate", "environment", "most_at_once", "rate", "runs_of", "wait_for"]


@frozen
class Run:
    """One run of an action: when it began and ended (monotonic, s), in which process. ``end`` is None if it did not."""

    job: str
    queue: str
    process: int
    begin: float
    end: float | None


def environment(url: str, directory: Path, **options: Any) -> dict[str, str]:
    """The settings of the application."""
    named = {f"BACKJOB_{name.upper()}": str(value) for name, value in options.items()}
    return {"BACKJOB_STORE": url, "BACKJOB_KEY": KEY, "RUNS": str(directory / "runs"), **named}


def runs_of(directory: Path) -> list[Run]:
    """The runs that began so far, in the order of their begin."""
    path = directory / "runs"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    began: dict[tuple[str, str], Run] = {}
    for word, job, queue, process, at in map(str.split, lines):
        key = job, process
        if word == "begin":
            began[key] = Run(job, queue, int(process), float(at), None)
        else:
            began[key] = Run(job, queue, int(process), began[key].begin, float(at))
    return sorted(began.values(), key=lambda run: run.begin)


def most_at_once(runs: list[Run], *, until: Callable[[Run], float] = lambda run: run.end or run.begin) -> int:
    """How many of these runs were under way at the same time at most."""
    events = sorted([(run.begin, 1) for run in runs] + [(until(run), -1) for run in runs])
    most = now = 0
    for _, change in events:
        now += change
        most = max(most, now)
    return most


def rate(runs: list[Run]) -> float:
    """Runs per second, from the first begin to the last end."""
    return len(runs) / (max(run.end or run.begin for run in runs) - runs[0].begin)


def bare_rate(server: Herd, seconds: float, at_once: int, count: int) -> float:
    """Requests per second, without jobs, of the same length and as many at once: the ideal at the machine's present load."""

    def one(_: int) -> None:
        assert server.client.get(f"/bare?s={seconds}").status == 200

    began = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, range(count)))
    return count / (time.monotonic() - began)


def wait_for(server: Herd, is_satisfied: Callable[[], bool], patience: float, so_far: Callable[[], object]) -> None:
    """Wait until the condition is satisfied, at most ``patience`` (s)."""
    deadline = time.monotonic() + patience
    while not is_satisfied():
        assert time.monotonic() < deadline, f"{so_far()}\n{server.tail()}"
        time.sleep(0.05)


def by_process(runs: list[Run]) -> Counter[int]:
    """How many runs each process had."""
    return Counter(run.process for run in runs)
