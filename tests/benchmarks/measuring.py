"""Measure backjob and the same work without it in alternating rounds, so that a busy machine slows both."""

from __future__ import annotations

import gc
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

from attrs import frozen
from pytest_benchmark.fixture import BenchmarkFixture

__all__ = ["Pair", "alternating", "median_of", "side_by_side", "timed"]

_WARM_UP = 10
_MIN_ROUNDS = 100
_MAX_TIME = 8.0  # s


@frozen
class Pair:
    """Two medians, in seconds."""

    ours: float
    raw: float

    @property
    def ratio(self) -> float:
        return self.ours / self.raw


def timed(function: Callable[[], object]) -> float:
    """Return how long a call takes, in seconds."""
    begin = perf_counter()
    function()
    return perf_counter() - begin


def side_by_side(
    benchmark: BenchmarkFixture,
    ours: Callable[[], object],
    raw: Callable[[], float],
    *,
    rounds: int,
    after: Callable[[], object] = lambda: None,
) -> Pair:
    """Time ``ours`` with pytest-benchmark; before each round, call ``raw``, which returns its own seconds.

    ``after`` cleans up after a round and is not timed.
    """
    raws: list[float] = []

    def prepare() -> None:
        if raws:
            after()
        raws.append(raw())

    own = median_of(benchmark, ours, setup=prepare, rounds=rounds, warmup_rounds=_WARM_UP)
    after()
    pair = Pair(own, median(raws[_WARM_UP:]))
    benchmark.extra_info["raw median"] = pair.raw
    benchmark.extra_info["ratio"] = pair.ratio
    return pair


def median_of(benchmark: BenchmarkFixture, function: Callable[[], object], **options: object) -> float:
    """Return the median of pytest-benchmark's rounds, in seconds; ``options`` go to its ``pedantic``."""
    untyped: Any = benchmark
    untyped.pedantic(function, **options)
    return float(untyped.stats.stats.median)


def alternating(ours: Callable[[], float], raw: Callable[[], float], *, rounds: int) -> Pair:
    """Like `side_by_side`, for work that continues after the call, so that ``ours`` returns its own seconds too.

    If the rounds are slow, for example because of the disk, it stops early: after 8 s, but not before 100 rounds.
    """
    found: list[tuple[float, float]] = []
    until = perf_counter() + _MAX_TIME
    for turn in range(rounds + _WARM_UP):
        if turn >= _MIN_ROUNDS + _WARM_UP and perf_counter() > until:
            break
        if turn % 50 == 0:
            gc.collect()
        found.append((ours(), raw()))
    kept = found[_WARM_UP:]
    return Pair(median([pair[0] for pair in kept]), median([pair[1] for pair in kept]))
