"""Lines in the file ``RUNS`` of a site whose processes are killed: ``<word> <job> <run> <process>``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from backjob.worker.running import current

if TYPE_CHECKING:
    from backjob import JobState

__all__ = ["RUNS", "on_end", "record", "recorded"]

RUNS: Final = Path(os.environ["RUNS"])


def _write_line(*words: object) -> None:
    """Append a line in one write, which the file system makes atomic."""
    descriptor = os.open(RUNS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
    finally:
        os.close(descriptor)


def record(word: str) -> None:
    """Add a line about the run that is current."""
    running = current.get()
    assert running is not None
    _write_line(word, running.job.id, running.job.run, os.getpid())


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
    _write_line("called", state.id, state.attempt, os.getpid())
