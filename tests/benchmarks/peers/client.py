"""The process that starts the tasks of one contender and measures: ``client.py MODULE`` takes commands as lines of JSON.

It runs in the contender's own environment, so it needs nothing but the standard library and the contender's ``MODULE`` of
`tests.benchmarks.peers.apps`.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.notes import END, FIRST_LINE, Notes

__all__ = ["main"]

_WAKING = 8
"""Tasks that wake the workers before a measurement: some of them poll less and less often while they have nothing to do."""


class _Client:
    """The commands. All durations are in seconds."""

    def __init__(self, app: Any, notes: Notes) -> None:
        self._app = app
        self._notes = notes

    def versions(self, packages: list[str]) -> list[str]:
        """The releases of these packages."""
        return [version(package) for package in packages]

    def many(self, count: int) -> float:
        """How long so many tasks take, started one after the other, until the last one has run."""
        self._ready()
        begin = time.monotonic()
        for _ in range(count):
            self._app.start()
        last = max(self._notes.wait(FIRST_LINE) for _ in range(count))
        self._drain()
        return last - begin

    def singles(self, count: int, rest: float) -> dict[str, float]:
        """The call that starts a task, and the time from it to the task's first line, each after a rest."""
        self._ready()
        calls, first_lines = list[float](), list[float]()
        for _ in range(count):
            time.sleep(rest)  # the rest is part of the measurement
            begin = time.monotonic()
            self._app.start()
            calls.append(time.monotonic() - begin)
            first_lines.append(self._notes.wait(FIRST_LINE) - begin)
        return {"call": median(calls), "first_line": median(first_lines)}

    def reports(self, count: int) -> dict[str, float]:
        """How long a report of progress takes, of many in one task; empty for a contender without."""
        self._ready()
        found = {}
        for name, start in (("report", "start_reports"), ("written_report", "start_written_reports")):
            function: Callable[[int], object] | None = getattr(self._app, start, None)
            if function is not None:
                function(count)
                began = self._notes.wait(FIRST_LINE)
                found[name] = (self._notes.wait(END) - began) / count
        return found

    def status(self, count: int) -> float:
        """How long it takes to read the state of a task that has ended, by its id."""
        self._ready()
        task = self._app.start()
        self._notes.wait(FIRST_LINE)
        time.sleep(0.2)  # until its end is written too
        begin = time.monotonic()
        for _ in range(count):
            self._app.status(task)
        return (time.monotonic() - begin) / count

    def close(self) -> None:
        """Remove what would stay on a shared broker."""
        getattr(self._app, "close", lambda: None)()

    def _ready(self) -> None:
        for _ in range(_WAKING):
            self._app.start()
        for _ in range(_WAKING):
            self._notes.wait(FIRST_LINE)
        self._drain()
        gc.collect()

    def _drain(self) -> None:
        getattr(self._app, "drain", lambda: None)()


def main(module: str) -> None:
    """Take commands from stdin until it is closed."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is not an answer
    client = _Client(import_module(module), Notes(Path(os.environ["PEER_NOTES"])))
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(getattr(client, name)(*arguments)), file=output, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
