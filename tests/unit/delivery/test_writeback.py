"""When the monitor writes what actions have reported: at the time when it is due, without looking at every running job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from attrs import define, evolve

from backjob.delivery.writeback import Writeback
from backjob.process import Outage
from backjob.testing import FakeClock
from tests.unit.core import bench


@define(eq=False)
class Run:
    """A running job; counts how often the time of its next write is read."""

    name: str
    at: float
    reads: int = 0

    @property
    def next_write(self) -> float:
        self.reads += 1
        return self.at


class World:
    def __init__(self) -> None:
        self.written: list[list[str]] = []
        self.wakes = 0
        parts = evolve(bench().engine.delivery_parts, write_together=self._write, tend_leases=lambda: None)
        self.writeback = Writeback(parts, outage=Outage(FakeClock()), wake=self._wake)

    def _write(self, runs: Sequence[Any]) -> None:
        self.written.append([run.name for run in runs])

    def _wake(self) -> None:
        self.wakes += 1

    def later(self, *runs: Any) -> None:
        for run in runs:
            self.writeback.write_later(run)


@pytest.fixture
def world() -> World:
    return World()


def test_what_is_due_is_written_together_and_the_earliest_first(world: World) -> None:
    world.later(Run("third", 3.0), Run("first", 1.0), Run("second", 2.0))
    assert world.writeback.next_event() == 1.0
    world.writeback.run(2.5)
    assert world.written == [["first", "second"]]
    assert world.writeback.next_event() == 3.0
    world.writeback.run(3.0)
    assert world.written[1:] == [["third"]]
    assert world.writeback.next_event() is None


def test_a_run_that_its_own_thread_has_written_is_due_later(world: World) -> None:
    run = Run("it", 1.0)
    world.later(run)
    assert world.writeback.next_event() == 1.0
    run.at = 1.5
    world.writeback.run(1.0)
    assert world.written == []
    assert world.writeback.next_event() == 1.5
    world.writeback.run(1.5)
    assert world.written == [["it"]]


def test_a_run_that_becomes_due_earlier_is_written_then_and_once(world: World) -> None:
    run = Run("it", 5.0)
    world.later(run, run)
    assert world.writeback.next_event() == 5.0
    run.at = 1.0
    world.later(run)
    assert world.wakes > 0
    assert world.writeback.next_event() == 1.0
    world.writeback.run(1.0)
    world.writeback.run(6.0)
    assert world.written == [["it"]]
    assert world.writeback.next_event() is None


def test_a_pass_reads_only_what_is_due(world: World) -> None:
    runs = [Run(f"{number}", 10.0 + number) for number in range(1000)]
    world.later(*runs)
    world.writeback.next_event()
    for run in runs:
        run.reads = 0
    world.writeback.run(10.0)
    for _ in range(10):
        world.writeback.next_event()
    assert world.written == [["0"]]
    assert sum(run.reads for run in runs) == 1


def test_at_the_end_everything_is_written(world: World) -> None:
    world.later(Run("a", 1.0), Run("b", 100.0))
    world.writeback.finish()
    assert sorted(world.written) == [["a"], ["b"]]
    assert world.writeback.next_event() is None
