"""A contender that runs: its workers, and the client that starts its tasks."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from tests.benchmarks.notes import Notes
from tests.benchmarks.peers.contenders import Contender
from tests.benchmarks.peers.environments import program_of
from tests.services import RABBITMQ, own_name

__all__ = ["Measured", "RunningContender", "running"]

_ROOT: Final = Path(__file__).resolve().parents[3]
_TIMEOUT: Final = 120.0
_TICK: Final = os.sysconf("SC_CLK_TCK")


@frozen(kw_only=True)
class Measured:
    """One round, in seconds: for a task of many, from the first start to the last run, and the processor time of its processes;
    the call that starts one; from this call to its first line; a report of progress; a report that is written, if not all
    are; a read of its state. None: it has none.
    """

    task: float
    processor: float
    call: float
    first_line: float
    report: float | None
    written_report: float | None
    status: float


@frozen
class RunningContender:
    """The contender's processes are in sessions of their own, one for each command."""

    contender: Contender
    version: str
    _client: subprocess.Popen[str]
    _processes: tuple[subprocess.Popen[str], ...]

    def measure(self, tasks: int, singles: int, rest: float, reports: int, reads: int) -> Measured:
        """Measure one round."""
        self.call("many", tasks // 10)
        before = self._processor_time()
        task = self.call("many", tasks) / tasks
        processor = (self._processor_time() - before) / tasks
        single = self.call("singles", singles, rest)
        report = self.call("reports", reports)
        return Measured(
            task=task,
            processor=processor,
            call=single["call"],
            first_line=single["first_line"],
            report=report.get("report"),
            written_report=report.get("written_report"),
            status=self.call("status", reads),
        )

    def call(self, command: str, *arguments: object) -> Any:
        """Have the client run a command; return its answer."""
        return _call(self._client, command, *arguments)

    def _processor_time(self) -> float:
        """The processor time (s) of its processes so far, with that of children that have ended."""
        sessions, ticks = {process.pid for process in self._processes}, 0
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                int(entry.name)
                fields = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                if int(fields[3]) in sessions:
                    ticks += sum(map(int, fields[11:15]))
        return ticks / _TICK


@contextmanager
def running(contender: Contender, cache: Path, directory: Path, store: str) -> Iterator[RunningContender]:
    """Run the contender's workers and client during the block; ``store`` is the URL of its store."""
    with ExitStack() as stack:
        notes = Notes.made(directory / "notes")
        stack.callback(notes.close)
        broker = RABBITMQ.url if contender.rabbitmq else store
        settings = {
            "PYTHONPATH": str(_ROOT),
            "PEER_NAME": own_name(),
            "PEER_NOTES": str(notes.path),
            "PEER_STORE": store,
            "PEER_BROKER": broker,
            "RQ_REDIS_URL": store,
            **dict(contender.environment),
        }
        environment = {**os.environ, **settings}
        log = stack.enter_context((directory / "log").open("ab"))

        def command(words: tuple[str, ...]) -> list[str]:
            return [program_of(contender, words[0], cache), *words[1:]]

        def started(words: tuple[str, ...], pipe: int | None = None) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                command(words),
                cwd=_ROOT,
                env=environment,
                stdin=pipe or subprocess.DEVNULL,
                stdout=pipe or log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
            stack.callback(_stop, process)
            return process

        if contender.prepare:
            subprocess.run(command(contender.prepare), cwd=_ROOT, env=environment, check=True, timeout=_TIMEOUT)
        workers = [started(contender.workers) for _ in range(contender.times)] if contender.workers else []
        words = ("python", "-m", "tests.benchmarks.peers.client", contender.module)
        client = started(words, subprocess.PIPE)
        package = contender.packages[0].partition("[")[0] if contender.packages else "backjob"
        (version,) = _call(client, "versions", [package])
        stack.callback(lambda: client.poll() is None and _call(client, "close"))
        yield RunningContender(contender, version, client, (client, *workers))


def _call(client: subprocess.Popen[str], command: str, *arguments: object) -> Any:
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(f"{json.dumps([command, arguments])}\n")
    client.stdin.flush()
    ready, _, _ = select.select([client.stdout], [], [], _TIMEOUT)
    assert ready, f"{command} did not end within {_TIMEOUT:g} s"
    line = client.stdout.readline()
    assert line, f"the client ended at {command}"
    return json.loads(line)


def _stop(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with process:  # closes its pipes
        process.wait()
