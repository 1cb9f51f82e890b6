"""A server whose worker processes a test kills, one after the other, while the site stays up."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from attrs import define, field, frozen

from tests.scenarios.client import WAIT, Client
from tests.scenarios.servers import gunicorn, python_server, uvicorn

__all__ = ["HERDS", "Herd", "HerdKind", "herd", "visitors", "wait_until_asleep"]

_ROOT: Final = Path(__file__).parents[2]


@frozen
class HerdKind:
    """A server with workers.

    ``is_single``: it is one process, which the test starts again after each kill. ``is_configured``: it does not show its
    socket, so that the application has a base URL.
    """

    name: str
    command: Callable[[str, socket.socket, Path], list[str]]
    app: str = "app"
    is_single: bool = False
    is_configured: bool = False

    def __str__(self) -> str:
        return self.name


HERDS: Final = (
    HerdKind("gunicorn gthread 2x2", gunicorn("--workers=2", "--threads=2")),
    HerdKind("gunicorn sync x4", gunicorn("--workers=4")),
    HerdKind("uvicorn x2", uvicorn("--workers=2"), app="asgi_app"),
    HerdKind("waitress", python_server("waitress"), is_single=True),
)


@define
class Herd:
    """A running server of several workers, on a socket that stays open."""

    kind: HerdKind
    command: list[str]
    environment: Mapping[str, str]
    listening: socket.socket
    log: Path
    client: Client
    process: subprocess.Popen[bytes] | None = None
    kills: int = 0
    _random: random.Random = field(factory=lambda: random.Random(7))

    def start(self) -> None:
        """Start the server, unless it runs."""
        if self.process is not None and self.process.poll() is None:
            return
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=_ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[self.listening.fileno()],
                start_new_session=True,
            )

    @property
    def workers(self) -> list[int]:
        """The process ids of the workers."""
        assert self.process is not None
        return [self.process.pid] if self.kind.is_single else _children(self.process.pid)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop all workers during the block, so that what they have written is of one moment."""
        workers = self.workers
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        deadline = time.monotonic() + WAIT
        while any(_state_of(pid) not in "TtZX" for pid in workers):
            assert time.monotonic() < deadline, self.tail()
            time.sleep(0.001)
        try:
            yield
        finally:
            for pid in workers:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def kill_one(self, among: Iterable[int] = ()) -> int | None:
        """Kill one worker, one of these if it lives, and have another follow. Returns its process id; None if there is none."""
        workers = self.workers
        if not workers:
            return None
        pid = self._random.choice([pid for pid in among if pid in workers] or workers)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.kills += 1
        if self.kind.is_single:
            assert self.process is not None
            self.process.wait(WAIT)
            self.start()
        return pid

    def stop(self) -> None:
        """Kill the server with its workers."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(WAIT)

    def tail(self) -> str:
        """The end of the log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-6000:]


def _children(pid: int) -> list[int]:
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += map(int, (task / "children").read_text().split())
    return [child for child in children if "resource_tracker" not in _command_of(child)]


def wait_until_asleep(pid: int) -> None:
    """Wait until the main threads of a process and of its children sleep.

    Python sees a signal between two steps. One that comes in the moment before a main thread begins to wait for ever, as
    that of a new worker of Granian does, is not seen until the next one.
    """
    deadline, before, now = time.monotonic() + WAIT, [""], ["R"]
    while now != before or any(one[0] != "S" for one in now):
        assert time.monotonic() < deadline, now
        before, now = now, [_main_thread_of(one) for one in (pid, *_children(pid))]
        time.sleep(0.02)


def _main_thread_of(pid: int) -> str:
    """The state of a process's main thread, and how often it began to wait: see ``proc_pid_status(5)``."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return f"{fields['State']} {fields['voluntary_ctxt_switches']} {fields['nonvoluntary_ctxt_switches']}"


def _state_of(pid: int) -> str:
    """The letter of ``proc_pid_stat(5)``; that of a dead process if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@contextmanager
def herd(kind: HerdKind, module: str, directory: Path, environment: Mapping[str, str]) -> Iterator[Herd]:
    """Run a server of this kind during the block, once it responds."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        command = kind.command(f"{module}:{kind.app}", listening, directory)
        client = Client(("127.0.0.1", listening.getsockname()[1]))
        if kind.is_configured:
            environment = {"BACKJOB_BASE_URL": f"http://127.0.0.1:{client.address[1]}", **environment}
        running = Herd(kind, command, environment, listening, directory / "server.log", client)
        running.start()
        try:
            deadline = time.monotonic() + WAIT
            while True:
                with suppress(OSError):
                    if client.get("/ready").status == 200:
                        break
                assert time.monotonic() < deadline, running.tail()
            yield running
        finally:
            running.stop()


@contextmanager
def visitors(client: Client, path: str, interval: float, timeout: float) -> Iterator[None]:
    """Request a page again and again during the block, as visitors do: a new worker's monitor starts at its first request."""
    is_over = threading.Event()

    def visit() -> None:
        while not is_over.wait(interval):
            with suppress(OSError):
                client.request("GET", path, timeout=timeout)

    thread = threading.Thread(target=visit)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


if sys.platform != "linux":
    raise RuntimeError("this module reads /proc")
