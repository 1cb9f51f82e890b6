"""The time after which the kit counts a call to a store as stuck."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from backjob.testing._stores import deadline
from backjob.testing._stores.deadline import Deadline, Deadlock

PATIENCE = 0.4


def test_a_machine_that_stalls_for_longer_than_the_patience_counts_as_no_deadlock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stalled = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + stalled[0])
    monkeypatch.setattr(deadline, "time", clock)
    limit = Deadline(PATIENCE)

    def returns_after_a_stall() -> str:
        stalled[0] = 10 * PATIENCE
        threading.Event().wait(PATIENCE / 2)  # so that the call is checked meanwhile
        return "done"

    with limit.watched():
        assert limit.call("get", returns_after_a_stall) == "done"


def test_a_call_that_does_not_return_is_ended() -> None:
    limit = Deadline(PATIENCE)
    with limit.watched(), pytest.raises(Deadlock, match="every call returns; get did not within"):
        limit.call("get", threading.Event().wait)
    assert limit.is_stuck
