"""Programs that an action runs: their output arrives as it is written, and they do not outlive the action."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backjob.errors import CommandFailed, InvalidRequest, JobEnded
from backjob.worker import commands
from backjob.worker.commands import Command
from backjob.worker.running import Running
from tests.unit.core import Bench, bench

DEADLINE = 30.0  # s, half of what the programs take that hang
HANGS = "import sys, time; print('ready', flush=True); time.sleep(60)"
IGNORES_TERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + HANGS
WITH_A_CHILD = (
    "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    "print(child.pid, flush=True); child.wait()"
)


@pytest.fixture
def world() -> Bench:
    return bench()


@pytest.fixture
def running(world: Bench) -> Running:
    return world.run()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def output_of(world: Bench, running: Running) -> str:
    running.flush()
    return world.jobs.output(running.job.id).text


class Heard:
    """Keeps what a command writes, and sets an event when a text is among it."""

    def __init__(self, text: str = "ready") -> None:
        self.all = ""
        self.event = threading.Event()
        self._text = text

    def __call__(self, text: str) -> None:
        self.all += text
        if self._text in self.all:
            self.event.set()


def command(args: Any, **options: Any) -> Command:
    return Command(args, options, data=None, terminal=False)


def ends(pid: int, within: float = DEADLINE) -> bool:
    """Wait for the end of a process."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], within)[0])
    finally:
        os.close(descriptor)


# --- output ---------------------------------------------------------------------------------------------------------


def test_both_streams_are_output_and_the_status_is_returned(world: Bench, running: Running) -> None:
    with running.active():
        status = world.jobs.run_command(
            python("import sys; print('out'); print('err', file=sys.stderr); print('ü€'); sys.exit(3)"), check=False
        )
    assert status == 3
    assert output_of(world, running) == "out\nerr\nü€\n"


def test_output_arrives_while_the_program_runs() -> None:
    heard = Heard()
    read, write = os.pipe()

    def stop() -> bool:
        if heard.event.is_set():
            os.write(write, b"go")
        return False

    code = f"import os; print('ready'); os.read({read}, 2); print('done')"
    try:
        assert command(python(code), pass_fds=[read]).run(heard, stop) == 0
    finally:
        os.close(read)
        os.close(write)
    assert heard.all == "ready\ndone\n"


def test_characters_may_be_split_and_bytes_that_are_no_text_are_replaced() -> None:
    heard = Heard()
    code = "import os; [os.write(1, bytes([b])) for b in 'ä€🚀'.encode() + b'\\xff\\n']"
    assert command(python(code)).run(heard, lambda: False) == 0
    assert heard.all == "ä€🚀\ufffd\n"


def test_another_encoding() -> None:
    heard = Heard()
    assert command(python("import os; os.write(1, b'\\xe4')"), encoding="latin-1").run(heard, lambda: False) == 0
    assert heard.all == "ä"


def test_much_output_is_bounded_by_the_limit_of_the_job() -> None:
    world = bench(max_output=1000)
    running = world.run()
    with running.active():
        world.jobs.run_command(python("print('x' * 5_000_000)"))
    running.flush()
    chunk = world.jobs.output(running.job.id)
    assert (len(chunk.text), chunk.truncated) == (1000, True)


def test_a_line_without_end_is_passed_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_LONGEST_LINE", 1000)
    parts: list[str] = []
    Command(python("import os\nfor _ in range(64): os.write(1, b'x' * 100_000)"), {}, data=None, terminal=False).run(
        parts.append, lambda: False
    )
    assert sum(map(len, parts)) == 6_400_000
    assert max(map(len, parts)) < 200_000


def test_a_program_gets_no_input_unless_some_is_given(world: Bench, running: Running) -> None:
    echo = python("import sys; print(repr(sys.stdin.read()))")
    with running.active():
        world.jobs.run_command(echo)
        world.jobs.run_command(echo, input="ü" * 30_000)
        world.jobs.run_command(echo, input=b"bytes")
    first, second, third = output_of(world, running).splitlines()
    assert (first, len(second), third) == ("''", 30_002, "'bytes'")


def test_options_are_those_of_popen(world: Bench, running: Running, tmp_path: Path) -> None:
    with running.active():
        world.jobs.run_command(python("import os; print(os.getcwd(), os.environ['X'])"), cwd=tmp_path, env={"X": "1"})
        world.jobs.run_command("echo $((1 + 1))", shell=True)
    assert output_of(world, running) == f"{tmp_path} 1\n2\n"


def test_a_program_on_a_pseudo_terminal_takes_it_for_one() -> None:
    heard = Heard()
    code = "import os, sys; print(sys.stdout.isatty(), os.get_terminal_size(1).columns, os.environ['TERM'])"
    assert Command(python(code), {}, data=None, terminal=True).run(heard, lambda: False) == 0
    assert heard.all == "True 80 xterm-256color\r\n"


def test_outside_of_a_job_the_output_is_printed(world: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.jobs.run_command(python("print('here')")) == 0
    assert capsys.readouterr().out == "here\n"


# --- the end --------------------------------------------------------------------------------------------------------


def test_a_failure_raises_with_the_last_lines(world: Bench, running: Running) -> None:
    code = "import sys; print('\\n'.join(map(str, range(20)))); sys.exit('no such table')"
    with running.active(), pytest.raises(CommandFailed) as caught:
        world.jobs.run_command(python(code))
    assert caught.value.returncode == 1
    assert caught.value.last_lines == "16\n17\n18\n19\nno such table"
    assert str(caught.value).startswith(f"{Path(sys.executable).name} ended with status 1:\n16\n")


def test_a_signal_is_a_failure(world: Bench) -> None:
    with pytest.raises(CommandFailed, match="was ended by signal 9") as caught:
        world.jobs.run_command(python("import os; os.kill(os.getpid(), 9)"))
    assert caught.value.returncode == -signal.SIGKILL


def test_a_program_that_is_missing(world: Bench) -> None:
    with pytest.raises(CommandFailed, match=r"^pg_dumb can't be started: No such file or directory$") as caught:
        world.jobs.run_command(["/nowhere/pg_dumb", "password"])
    assert caught.value.returncode is None


@pytest.mark.parametrize("code", [HANGS, IGNORES_TERM], ids=["that hangs", "that ignores SIGTERM"])
def test_a_program_ends_when_its_job_does(
    world: Bench, running: Running, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr(Command, "grace", 0.3)
    heard = Heard()
    monkeypatch.setattr(running, "write", heard)
    ended: list[int | None] = []
    kill = Command._kill

    def killed(self: Command, process: subprocess.Popen[bytes]) -> None:
        kill(self, process)
        ended.append(process.returncode)

    monkeypatch.setattr(Command, "_kill", killed)

    def cancel() -> None:
        assert heard.event.wait(DEADLINE)
        world.jobs.cancel(running.job.id)
        running.ended = True  # as the next renewal of the lease finds out

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with running.active(), pytest.raises(JobEnded):
        world.jobs.run_command(python(code))
    canceller.join(DEADLINE)
    assert ended == [-signal.SIGTERM if code == HANGS else -signal.SIGKILL]


def test_the_processes_that_it_has_started_end_too() -> None:
    heard = Heard("\n")
    assert command(python(WITH_A_CHILD)).run(heard, heard.event.is_set) is None
    assert ends(int(heard.all))


def test_a_process_that_it_leaves_behind_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_LINGER", 0.1)
    heard = Heard("\n")
    code = WITH_A_CHILD.replace("; child.wait()", "")
    assert command(python(code)).run(heard, lambda: False) == 0
    child = int(heard.all)
    assert not ends(child, 0)
    os.kill(child, signal.SIGKILL)


def test_a_program_that_closes_its_output_is_waited_for() -> None:
    read, write = os.pipe()
    turns = 0

    def stop() -> bool:
        nonlocal turns
        turns += 1
        if turns == 3:
            os.write(write, b"go")
        return False

    code = f"import os, sys; os.close(1); os.close(2); os.read({read}, 2); os._exit(7)"
    try:
        assert command(python(code), pass_fds=[read]).run(Heard(), stop) == 7
    finally:
        os.close(read)
        os.close(write)


def test_a_program_is_ended_before_a_draining_process_is(
    world: Bench, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()

    def write(text: str) -> None:
        heard(text)
        world.engine.draining.is_on = True
        world.clock.advance(0)

    def checked(original: Callable[[], bool]) -> Callable[[], bool]:
        def check() -> bool:
            if world.engine.draining.is_on:
                world.clock.advance(10)
            return original()

        return check

    run = Command.run
    monkeypatch.setattr(Command, "run", lambda self, write, stop: run(self, write, checked(stop)))
    monkeypatch.setattr(running, "write", write)
    with running.active(), pytest.raises(CommandFailed, match="was ended, because this process shuts down"):
        world.jobs.run_command(python(HANGS))


# --- in an event loop -----------------------------------------------------------------------------------------------


def test_the_async_twin_runs_many_at_once(world: Bench, running: Running) -> None:
    async def act() -> list[int]:
        return await asyncio.gather(*[world.jobs.arun_command(python(f"print({n})")) for n in range(4)])

    with running.active():
        assert asyncio.run(act()) == [0] * 4
    assert sorted(output_of(world, running).split()) == list("0123")


def test_the_async_twin_raises_too(world: Bench, running: Running) -> None:
    with running.active(), pytest.raises(CommandFailed, match="status 4"):
        asyncio.run(world.jobs.arun_command(python("raise SystemExit(4)")))


def test_a_cancelled_task_ends_the_program(world: Bench, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard("\n")
    monkeypatch.setattr(running, "write", heard)
    ended = threading.Event()
    kill = Command._kill

    def killed(self: Command, process: subprocess.Popen[bytes]) -> None:
        kill(self, process)
        ended.set()

    monkeypatch.setattr(Command, "_kill", killed)

    async def act() -> None:
        task = asyncio.ensure_future(
            world.jobs.arun_command(python("import os, time; print(os.getpid(), flush=True); time.sleep(60)"))
        )
        await asyncio.get_running_loop().run_in_executor(None, heard.event.wait, DEADLINE)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    with running.active():
        asyncio.run(act())
    assert ended.wait(DEADLINE)
    assert ends(int(heard.all))


# --- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "options", "argument"),
    [
        ("pg_dump shop", {}, "args"),
        ([], {}, "args"),
        ([1], {}, "args"),
        (["x"], {"stdout": subprocess.PIPE}, "stdout"),
        (["x"], {"text": True}, "text"),
        (["x"], {"stdin": subprocess.PIPE}, "stdin"),
        (["x"], {"stderr": subprocess.PIPE}, "stderr"),
        (["x"], {"input": 3}, "input"),
        (["x"], {"input": "a", "stdin": None}, "input"),
    ],
)
def test_arguments_that_can_not_be_right(world: Bench, args: Any, options: dict[str, Any], argument: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        world.jobs.run_command(args, **options)
    assert caught.value.argument == argument


def test_programs_end_with_this_process() -> None:
    code = (
        "import sys, threading\n"
        "from backjob.worker.commands import Command\n"
        "ready = threading.Event()\n"
        "def write(text):\n"
        "    print(text, end='', flush=True)\n"
        "    ready.set()\n"
        "child = 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'\n"
        "run = lambda: Command([sys.executable, '-c', child], {}, data=None, terminal=False).run(write, lambda: False)\n"
        "threading.Thread(target=run, daemon=True).start()\n"
        "ready.wait(20)\n"
    )
    shown = subprocess.run(python(code), capture_output=True, text=True, timeout=DEADLINE, check=True).stdout
    assert ends(int(shown))
