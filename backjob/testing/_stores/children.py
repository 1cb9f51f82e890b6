"""Other processes that open a store, for races and for single calls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer
from typing import IO, Any, Final

from backjob.testing._stores.case import kept
from backjob.testing._stores.process import packed, unpacked

__all__ = ["Child", "Children", "StoreElsewhere"]

_ZONE: Final = "Pacific/Kiritimati"
"""The zone of the processes; their time of day is 14 hours ahead of UTC."""


class Children:
    """Processes that one test after the other may use: to start them takes longer than most races."""

    def __init__(self, directory: Path, patience: float) -> None:
        self._directory = directory
        self._patience = patience
        self._children: list[Child] = []

    @contextmanager
    def some(self, count: int) -> Iterator[list[Child]]:
        """So many processes. If the block fails, they end: they may be in the middle of something."""
        while len(self._children) < count:
            log = self._directory / f"process {len(self._children)}.log"
            self._children.append(Child(log, self._patience))
        try:
            yield self._children[:count]
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Kill the processes."""
        for child in self._children:
            child.end()
        self._children.clear()


class Child:
    """A process. Without an answer within ``patience`` seconds it is killed."""

    def __init__(self, log: Path, patience: float) -> None:
        self._log = log
        self._patience = patience
        path = os.pathsep.join([entry or str(Path.cwd()) for entry in sys.path])
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "backjob.testing._stores.process"],
                env={**os.environ, "PYTHONPATH": path, "TZ": _ZONE},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
            )
        self._stdin: IO[str] = self._process.stdin  # type: ignore[assignment]  # it is a pipe
        self._stdout: IO[str] = self._process.stdout  # type: ignore[assignment]

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()
        with suppress(BrokenPipeError), self._process:
            pass

    def send(self, line: str) -> None:
        """Send a line. `receive` notices a process that has died."""
        with suppress(BrokenPipeError):
            self._stdin.write(line + "\n")
            self._stdin.flush()

    def receive(self, expected: str) -> Any:
        """The value that the process sends under this name. Fails, naming the promise, if it sends an error or nothing."""
        __tracebackhide__ = True
        timer = Timer(self._patience, self._process.kill)
        timer.start()
        line = self._stdout.readline()
        timer.cancel()
        if not line:
            log = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise AssertionError(
                f"promise broken: calls from many processes all return; one ended, or was killed after {self._patience:g} s\n"
                f"{log}"
            )
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise AssertionError(
                f"promise broken: a shared store does not raise in any process; it raised {message['error']}\n"
                f"{message['traceback']}"
            )
        return message[expected]


class StoreElsewhere:
    """A store that another process has open: each method is called there. ``close`` lets the process wait for another task."""

    def __init__(self, child: Child, task: dict[str, object]) -> None:
        self._child = child
        child.send(json.dumps({**task, "scenario": "serve"}))
        child.receive("ready")

    def close(self) -> None:
        self._child.send("")
        kept(self._child.receive("closed"), "a process can close the store")

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: object, **named: object) -> Any:
            __tracebackhide__ = True
            self._child.send(packed((name, arguments, named)))
            return unpacked(self._child.receive("done"))

        return call
