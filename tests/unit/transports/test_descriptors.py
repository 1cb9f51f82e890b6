"""Tests of how many connections a process may open."""

from __future__ import annotations

import os

import pytest

from backjob.testing import FakeClock
from backjob.transports.sockets.descriptors import Descriptors


def test_while_one_thread_counts_for_the_first_time_another_one_sees_no_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Descriptors(FakeClock())
    meanwhile: list[int] = []

    def listdir(path: str) -> list[str]:
        if not meanwhile:
            meanwhile.append(-1)
            meanwhile[0] = found.capacity(
                None, 0
            )  # as another thread does, since listing releases the interpreter's lock
        return ["0", "1", "2", "3"]

    monkeypatch.setattr(os, "listdir", listdir)
    assert found.capacity(None, 0) == meanwhile[0] > 0


def test_it_counts_at_most_every_tenth_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, counts = FakeClock(), list[str]()

    def listdir(path: str) -> list[str]:
        counts.append(path)
        return ["0"]

    monkeypatch.setattr(os, "listdir", listdir)
    found = Descriptors(clock)
    for _ in range(10):
        found.capacity(None, 0)
    assert len(counts) == 1
    clock.advance(0.1)
    found.capacity(None, 0)
    assert len(counts) == 2
