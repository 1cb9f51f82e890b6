"""The file ``RUNS``, in which the sites of these tests note when a run begins and ends, in any process."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from backjob.worker.running import current
from tests.lines import append_line

__all__ = ["RUNS", "record"]

RUNS: Final = Path(os.environ["RUNS"])


def record(word: str) -> None:
    """Note that a run begins or ends."""
    running = current.get()
    assert running is not None
    append_line(RUNS, word, running.job.id, running.job.queue, os.getpid(), f"{time.monotonic():.4f}")
