"""The file ``RUNS``, in which the sites of these tests note when a run begins and ends, in any process."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from backjob.worker.running import current

__all__ = ["RUNS", "append", "record"]

RUNS: Final = Path(os.environ["RUNS"])


def record(word: str) -> None:
    """Note that a run begins or ends."""
    running = current.get()
    assert running is not None
    append(RUNS, f"{word} {running.job.id} {running.job.queue} {os.getpid()} {time.monotonic():.4f}")


def append(path: Path, line: str) -> None:
    """Append a line in one write, which the file system makes atomic."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)
