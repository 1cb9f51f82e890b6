"""Text that an action prints goes to its own job; all other text goes to the original stdout."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click
import pytest
from rich.console import Console
from tqdm import tqdm

from backjob.worker.capture import capture_stdout
from backjob.worker.running import Running, current
from tests.unit.core import Bench, bench

DEADLINE = 60.0


@pytest.fixture
def world() -> Iterator[Bench]:
    before = sys.stdout
    yield bench()
    sys.stdout = before


def text_of(world: Bench, running: Running) -> str:
    running.flush()
    return world.store.store.output(running.job.id, 0, 1 << 22).text


def test_the_output_of_fifty_threads_is_not_mixed(world: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [world.run() for _ in range(50)]
    barrier = threading.Barrier(50)

    def act(n: int) -> None:
        with runs[n].active():
            barrier.wait(DEADLINE)
            for line in range(500):
                print(n, line)

    with ThreadPoolExecutor(50) as pool:
        for future in [pool.submit(act, n) for n in range(50)]:
            future.result(DEADLINE)
    for n, running in enumerate(runs):
        assert text_of(world, running).splitlines() == [f"{n} {line}" for line in range(500)]
    assert capsys.readouterr().out == ""


def test_the_output_of_fifty_tasks_is_not_mixed(world: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [world.run() for _ in range(50)]

    async def act(n: int) -> None:
        with runs[n].active():
            for line in range(50):
                print(n, line)
                await asyncio.sleep(0)

    async def all_of_them() -> None:
        await asyncio.gather(*[act(n) for n in range(50)])

    asyncio.run(all_of_them())
    for n, running in enumerate(runs):
        assert text_of(world, running).splitlines() == [f"{n} {line}" for line in range(50)]
    assert capsys.readouterr().out == ""


def test_text_printed_outside_of_a_job_goes_to_the_original_stdout(
    world: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    running = world.run()
    print("before")
    with running.active():
        print("inside", flush=True)
        sys.stdout.writelines(["a", "b"])
    print("after")
    assert capsys.readouterr().out == "before\nafter\n"
    assert text_of(world, running) == "inside\nab"


def test_another_thread_is_not_captured(world: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    running = world.run()
    with running.active():
        thread = threading.Thread(target=print, args=("elsewhere",))
        thread.start()
        thread.join(DEADLINE)
    assert capsys.readouterr().out == "elsewhere\n"
    assert text_of(world, running) == ""


def test_an_exception_ends_the_capture(world: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    running = world.run()
    with pytest.raises(ZeroDivisionError), running.active():
        raise ZeroDivisionError
    print("after")
    assert current.get() is None
    assert capsys.readouterr().out == "after\n"


def test_a_job_within_a_job_has_its_own_output(world: Bench) -> None:
    outer, inner = world.run(), world.run()
    with outer.active():
        print("outer")
        with inner.active():
            print("inner")
        print("outer again")
    assert text_of(world, outer) == "outer\nouter again\n"
    assert text_of(world, inner) == "inner\n"


def test_the_proxy_is_installed_once(world: Bench) -> None:
    capture_stdout(lambda _content, _level: False)
    proxy = sys.stdout
    world.run()
    capture_stdout(lambda _content, _level: True)
    assert sys.stdout is proxy


def test_the_proxy_stays_alive_when_stdout_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    capture_stdout(lambda _content, _level: True)
    proxy = weakref.ref(sys.stdout)
    sys.stdout = io.StringIO()
    # print() holds no reference to its stream: without the proxy, the next write would crash the interpreter.
    assert proxy() is not None


def test_an_action_may_redirect_stdout_itself(world: Bench) -> None:
    running = world.run()
    inside = io.StringIO()
    with running.active():
        with contextlib.redirect_stdout(inside):
            print("to the file")
        print("to the job")
    assert inside.getvalue() == "to the file\n"
    assert text_of(world, running) == "to the job\n"


def test_the_proxy_has_the_attributes_of_the_original_stream(world: Bench) -> None:
    before = sys.stdout
    with world.run().active():
        assert sys.stdout.mode == before.mode
        assert sys.stdout.write("abc") == 3


def test_a_process_without_a_stdout_still_captures_output(world: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    running = world.run()
    with running.active():
        print("captured")
    print("lost", flush=True)
    assert text_of(world, running) == "captured\n"


def test_a_generator_prints_to_the_job_that_runs_it(world: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> Iterator[str]:
        print("first")
        yield "a"
        print("second")
        yield "b"

    running = world.run()
    chunks = body()
    with running.active():
        next(chunks)
    print("between")
    with running.active():
        next(chunks)
    assert capsys.readouterr().out == "between\n"
    assert text_of(world, running) == "first\nsecond\n"


# --- a text stream --------------------------------------------------------------------------------------------------


class Terminal(io.TextIOWrapper):
    """Bytes of a terminal that is not UTF-8."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding, "strict")

    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> str:
        self.flush()
        raw: Any = self.buffer
        return str(raw.getvalue().decode("latin-1" if self.encoding == "latin-1" else "utf-8"))


def on_terminal(monkeypatch: pytest.MonkeyPatch, encoding: str = "latin-1") -> Terminal:
    """Make a terminal the stdout. Call it in the test itself: pytest replaces stdout after each fixture."""
    stream = Terminal(encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    return stream


def test_stdout_refuses_bytes_as_a_text_stream_does(world: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    running = world.run()
    stdout: Any = None
    with running.active():
        stdout = sys.stdout
        for value in (b"", b"bytes", 3, None):
            with pytest.raises(TypeError, match="must be str"):
                stdout.write(value)
    with pytest.raises(TypeError, match="must be str"):
        stdout.write(b"")
    assert isinstance(stdout, io.TextIOBase)
    assert (text_of(world, running), terminal.shown) == ("", "")


def test_stdout_is_a_terminal_only_outside_of_a_job(world: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with world.run().active():
        assert (sys.stdout.isatty(), sys.stdout.buffer.isatty()) == (False, False)
        assert (sys.stdout.encoding, sys.stdout.errors) == ("latin-1", "strict")
    assert sys.stdout is not terminal
    assert (sys.stdout.isatty(), sys.stdout.encoding, sys.stdout.errors) == (True, "latin-1", "strict")


def test_bytes_that_a_job_writes_to_the_buffer_are_output(world: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    running = world.run()
    with running.active():
        print("first")
        for piece in ("ü€".encode()[:3], memoryview("ü€".encode()[3:]), bytearray(b"\xff\n")):
            assert sys.stdout.buffer.write(piece) == len(piece)
        sys.stdout.buffer.flush()
        with pytest.raises(TypeError):
            sys.stdout.buffer.write("text")  # type: ignore[call-overload]
    sys.stdout.buffer.write(b"after")
    assert text_of(world, running) == "first\nü€\ufffd\n"
    assert terminal.shown == "after"


def test_without_a_buffer_behind_it_stdout_has_one_only_in_a_job(world: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    running = world.run()
    with running.active():
        sys.stdout.buffer.write(b"bytes")
    assert not hasattr(sys.stdout, "buffer")
    assert text_of(world, running) == "bytes"


def test_click_echoes_to_the_job_and_still_works_afterwards(world: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    running = world.run()
    with running.active():
        click.echo("text")
        click.echo(b"bytes")
        click.secho("red", fg="red")
    click.echo("after")
    with world.run().active():
        click.echo("in another job")
    click.secho("red", fg="red")
    assert text_of(world, running) == "text\nbytes\nred\n"
    assert terminal.shown == "after\n\x1b[31mred\x1b[0m\n"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
@pytest.mark.parametrize("first_in_job", [True, False])
def test_click_writes_all_characters_in_jobs_and_outside_whichever_came_first(
    world: Bench, monkeypatch: pytest.MonkeyPatch, encoding: str, first_in_job: bool
) -> None:
    terminal, running = on_terminal(monkeypatch, encoding), world.run()
    if not first_in_job:
        with world.run().active():
            pass  # installs the proxy
        click.echo("before ü")
    with running.active():
        click.secho("inside ü", fg="red")
    click.echo("after ü")
    assert text_of(world, running) == "inside ü\n"
    assert terminal.shown == ("" if first_in_job else "before ü\n") + "after ü\n"


def test_rich_and_tqdm_write_to_the_job_without_colours(world: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    running = world.run()
    with running.active():
        Console().print("[red]hello[/red] ✓")
        for _ in tqdm(range(2), file=sys.stdout, ncols=40):
            pass
    text = text_of(world, running)
    assert text.startswith("hello ✓\n")
    assert "2/2" in text
    assert "\x1b" not in text
    assert terminal.shown == ""


def test_a_log_handler_writes_to_the_stdout_that_it_was_made_with(
    world: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal, running = on_terminal(monkeypatch), world.run()
    before = logging.StreamHandler(sys.stdout)
    with running.active():
        after = logging.StreamHandler(sys.stdout)
        before.emit(logging.makeLogRecord({"msg": "made before"}))
        after.emit(logging.makeLogRecord({"msg": "made in a job"}))
    after.emit(logging.makeLogRecord({"msg": "after the job"}))
    assert text_of(world, running) == "made in a job\n"
    assert terminal.shown == "made before\nafter the job\n"


# --- redirections ---------------------------------------------------------------------------------------------------


class Step(ThreadPoolExecutor):
    """A thread that runs calls one at a time, all in its own context."""

    def __init__(self) -> None:
        super().__init__(1)

    def __call__(self, function: Callable[..., object], *arguments: Any) -> Any:
        return self.submit(function, *arguments).result(DEADLINE)

    def leave(self, *entered: contextlib.AbstractContextManager[Any]) -> None:
        for context in entered:
            self(context.__exit__, None, None, None)


def test_a_job_that_redirects_stdout_keeps_its_lines_when_another_begins(world: Bench) -> None:
    first, second = world.run(), world.run()
    lines = io.StringIO()
    redirection, one, two = contextlib.redirect_stdout(lines), first.active(), second.active()
    with Step() as a, Step() as b:
        a(one.__enter__)
        a(print, "a0")
        a(redirection.__enter__)
        a(print, "a1")
        b(two.__enter__)
        a(print, "a2")
        b(print, "b1")
        a.leave(redirection)
        a(print, "a3")
        b(print, "b2")
        b.leave(two)
        a(print, "a4")
        a.leave(one)
    assert lines.getvalue() == "a1\na2\n"
    assert text_of(world, first) == "a0\na3\na4\n"
    assert text_of(world, second) == "b1\nb2\n"


@pytest.mark.parametrize("closed", [True, False])
def test_a_past_redirection_gets_no_text_even_if_two_were_interleaved(
    world: Bench, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    terminal = on_terminal(monkeypatch)
    first, second, third = world.run(), world.run(), world.run()
    lines, others = io.StringIO(), io.StringIO()
    outer, inner = contextlib.redirect_stdout(lines), contextlib.redirect_stdout(others)
    one, two = first.active(), second.active()
    with Step() as a, Step() as b:
        a(one.__enter__)
        a(outer.__enter__)
        b(two.__enter__)
        b(inner.__enter__)
        a.leave(outer)
        if closed:
            lines.close()
        else:
            with third.active():
                print("c")
            assert text_of(world, third) == "c\n"
        b.leave(inner)
        print("outside")
        b(print, "b")
        a(print, "a")
        b.leave(two)
        a.leave(one)
    assert terminal.shown == "outside\n"
    assert (text_of(world, first), text_of(world, second)) == ("a\n", "b\n")


def test_a_redirection_outside_of_a_job_gets_no_line_of_a_job_that_begins_within_it(world: Bench) -> None:
    running, lines = world.run(), io.StringIO()
    with contextlib.redirect_stdout(lines):
        print("before")
        with running.active():
            print("inside")
        print("after")
    assert lines.getvalue() == "before\nafter\n"
    assert text_of(world, running) == "inside\n"
