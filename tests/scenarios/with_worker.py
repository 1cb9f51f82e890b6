"""A scenario site whose jobs run in a worker, a process without a server, under a supervisor that restarts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from attrs import evolve

from tests.scenarios.servers import KINDS, Kind
from tests.scenarios.sites import Site, serving, settings

__all__ = ["WITH_WORKER", "WITH_WORKER_PAIRS", "WORKER_IN_CI", "Supervisor", "command_of", "worked"]

ROOT: Final = Path(__file__).resolve().parents[2]
WAIT: Final = 60.0

WITH_WORKER: Final = {
    "waitress-worker": evolve(KINDS["waitress"], name="waitress-worker", workers=4),
    "uvicorn-worker": evolve(KINDS["uvicorn-h11"], name="uvicorn-worker", workers=4, address="learnt"),
}
"""The server of the pages, under the name of the pair. No worker request reaches it."""
WORKER_IN_CI: Final = ("plain_app", "waitress-worker")
WITH_WORKER_PAIRS: Final = (
    WORKER_IN_CI,
    ("flask_app", "waitress-worker"),
    ("django_app", "waitress-worker"),
    ("asgi_app", "uvicorn-worker"),
)

ONLY_IN_A_WORKER: Final = {"BACKJOB_DELIVER": "", "BACKJOB_SEAL": "yes"}


def command_of(app: str, *options: str) -> list[str]:
    """The command of a worker for a module in `tests.scenarios.apps`."""
    module = f"tests.scenarios.apps.{app}"
    if app.startswith("flask"):
        return [sys.executable, "-m", "flask", "--app", f"{module}:flask_app", "backjob", "worker", *options]
    if app.startswith("django"):
        return [sys.executable, "-m", "backjob", "worker", "--app", f"{module}:jobs", *options]
    interface = "--asgi" if app == "asgi_app" else "--wsgi"
    return [sys.executable, "-m", "backjob", "worker", "--app", f"{module}:jobs", interface, f"{module}:app", *options]


class Supervisor:
    """Keeps a worker running, as systemd does: it starts another one when one ends."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._command = list(command)
        self._log = log
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        self._is_stopping = False
        self.starts = 0
        self.process = self._start()
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._thread.start()

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        with self._log.open("ab") as output:
            return subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def _supervise(self) -> None:
        while True:
            self.process.wait()
            if self._is_stopping:
                return
            self.process = self._start()

    def wait_until_ready(self, count: int = 1) -> None:
        """Wait until so many workers have said that they run."""
        self.wait_for_log("backjob worker: runs jobs", count)

    def wait_for_log(self, text: str, count: int = 1) -> None:
        """Wait until the log has a text so often."""
        until = time.monotonic() + WAIT
        while self.log.count(text) < count:
            assert time.monotonic() < until, self.log
            time.sleep(0.02)

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        """Kill the worker with SIGKILL; another one starts."""
        self.process.kill()

    def stop(self) -> int:
        """Stop the worker with SIGTERM, and return its exit code."""
        self.signal()
        return self.ended()

    def signal(self) -> None:
        """Send SIGTERM. No other worker starts when this one ends."""
        self._is_stopping = True
        self.process.send_signal(signal.SIGTERM)

    def ended(self) -> int:
        """Wait for the end of a worker that was stopped, and return its exit code."""
        try:
            return self.process.wait(WAIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self._thread.join(WAIT)


@contextmanager
def worked(kind: Kind, app: str, directory: Path, *options: str, **more: str) -> Iterator[tuple[Site, Supervisor]]:
    """Run a site and its worker during the block: an app of `apps` on a server that runs none of the jobs."""
    environment = ONLY_IN_A_WORKER | more
    with serving(kind, f"{app}:app", directory, **environment) as site:
        supervisor = Supervisor(command_of(app, *options), directory / "server.log", settings(directory) | environment)
        try:
            supervisor.wait_until_ready()
            yield site, supervisor
        finally:
            code = supervisor.stop()
        assert code == 0, supervisor.log
