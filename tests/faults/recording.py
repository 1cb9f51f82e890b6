"""Lines in the file ``RUNS`` of a site whose processes are killed: ``<word> <job> <run> <process>``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from backjob.worker.running import current
from tests.lines import append_line

if TYPE_CHECKING:
    from backjob import JobState

__all__ = ["RUNS", "on_end", "record", "recorded"]

RUNS: Final = Path(os.environ["RUNS"])


def record(word: str) -> None:
    """Add a line about the run that is current."""
    running = current.get()
    assert running is not None
    append_line(RUNS, word, running.job.id, running.job.run, os.getpid())


@contextmanager
def recorded() -> Iterator[None]:
    """Record the begin and the end of the block."""
    record("begin")
    try:
        yield
    finally:
        record("end")


def on_end(state: JobState) -> None:
    """Add a line about the call; its run is the attempt."""
    append_line(RUNS, "called", state.id, state.attempt, os.getpid())
