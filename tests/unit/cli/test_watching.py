"""`watch` in a pipe and on a terminal, and Ctrl-C."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backjob import BackJob, JobNotFound, JobState, Status
from backjob.cli.exits import OF_STATUS
from backjob.cli.watching import watch
from backjob.lifecycle import End, cancelled, completed, failed
from backjob.status.words import WAITING
from backjob.stores.sqlite import SQLiteStore
from tests.unit.acting import Acting, quiet_jobs
from tests.unit.terminals import Terminal, on_terminal

TIMEOUT = 60.0  # s
ROOT = Path(__file__).parents[3]
EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\x08\u202e"


@pytest.fixture
def jobs() -> Iterator[BackJob]:
    with quiet_jobs() as jobs:
        yield jobs


@pytest.fixture(autouse=True)
def capable_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def scripted(jobs: BackJob, monkeypatch: pytest.MonkeyPatch, acting: Acting, *steps: Callable[[], object]) -> None:
    """Make `BackJob.watch` yield the job after each of the steps."""

    def watch(_job_id: str) -> Iterator[JobState]:
        yield jobs.status(acting.id)
        for step in steps:
            step()
            yield jobs.status(acting.id)

    monkeypatch.setattr(jobs, "watch", watch)


@pytest.mark.parametrize(("end", "code"), [(completed, 0), (failed, 1), (cancelled, 2)])
def test_the_exit_code_and_the_last_line_show_the_end(jobs: BackJob, end: Callable[[str], End], code: int) -> None:
    acting = Acting(jobs).claim().end(end, "the end")
    stream = io.StringIO()
    assert watch(jobs, acting.id, stream) == code
    last = stream.getvalue().splitlines()[-1]
    assert last.startswith(Status(code + 2).name)
    assert last.endswith("the end")


def test_lines_show_the_attempt_and_why_the_job_waits(jobs: BackJob, monkeypatch: pytest.MonkeyPatch) -> None:
    acting = Acting(jobs, retries=1, due=60)
    scripted(
        jobs,
        monkeypatch,
        acting,
        acting.claim,
        lambda: acting.retry("boom"),
        acting.claim,
        lambda: acting.report(progress=50, text="again"),
        acting.hand_over,
        lambda: acting.claim().end(completed, "done"),
    )
    stream = io.StringIO()
    watch(jobs, acting.id, stream)
    assert stream.getvalue().splitlines() == [
        f"STARTED       0 %  {WAITING['due']}",
        "IN_PROGRESS   0 %",
        "STARTED       0 %  boom; attempt 2 of 2",
        "IN_PROGRESS   0 %  attempt 2 of 2",
        "IN_PROGRESS  50 %  again; attempt 2 of 2",
        "IN_PROGRESS  50 %  again",
        "COMPLETED   100 %  done",
    ]


def test_plain_lines_show_each_state_and_output_once_in_order(jobs: BackJob, monkeypatch: pytest.MonkeyPatch) -> None:
    acting = Acting(jobs)
    scripted(
        jobs,
        monkeypatch,
        acting,
        acting.claim,
        lambda: acting.report(progress=10, output="one\ntw"),
        lambda: acting.report(output="o\n"),
        lambda: acting.report(progress=50, text="halfway"),
        lambda: acting.report(output="unfinished"),
        lambda: acting.end(completed, "done"),
    )
    stream = io.StringIO()
    assert watch(jobs, acting.id, stream) == 0
    assert stream.getvalue().splitlines() == [
        "STARTED       0 %",
        "IN_PROGRESS   0 %",
        "one",
        "IN_PROGRESS  10 %",
        "two",
        "IN_PROGRESS  50 %  halfway",
        "unfinished",
        "COMPLETED   100 %  done",
    ]


@pytest.mark.slow
def test_output_of_many_chunks_is_written_to_a_file_completely(jobs: BackJob) -> None:
    acting = Acting(jobs).claim()
    text = "".join(f"{number} ä\n" for number in range(30_000))
    acting.report(output=text.replace("7 ä", "\x1b[31m7\x1b[0m ä"))
    acting.end()
    stream = io.StringIO()
    watch(jobs, acting.id, stream)
    assert text in stream.getvalue()


def test_output_that_exceeded_the_limit_is_printed_with_its_tail(jobs: BackJob) -> None:
    acting = Acting(jobs).claim()
    acting.report(output="beginning\n", truncated=True, tail="half a line\nthe \x1b[1mend\x1b[0m\n")
    acting.end()
    stream = io.StringIO()
    watch(jobs, acting.id, stream)
    assert stream.getvalue().splitlines()[:3] == [
        "beginning",
        "(the output exceeded the limit; a part is missing here)",
        "the end",
    ]


def test_a_progress_bar_in_the_output_is_one_line(jobs: BackJob, monkeypatch: pytest.MonkeyPatch) -> None:
    acting = Acting(jobs).claim()
    scripted(
        jobs,
        monkeypatch,
        acting,
        lambda: acting.report(output="begin\n\r 10 %"),
        lambda: acting.report(output="\r 50 %"),
        lambda: acting.report(output="\r100 %\nend\n"),
        acting.end,
    )
    stream = io.StringIO()
    watch(jobs, acting.id, stream)
    lines = [line for line in stream.getvalue().splitlines() if not line.startswith(("IN_PROGRESS", "COMPLETED"))]
    assert lines == ["begin", "100 %", "end"]


def test_several_bars_are_printed_once_they_are_done(jobs: BackJob, monkeypatch: pytest.MonkeyPatch) -> None:
    acting = Acting(jobs).claim()

    def bars(first: int, second: int) -> str:
        return f"\r\x1b[2KA {first} %\nB {second} %\r\x1b[1A"

    scripted(
        jobs,
        monkeypatch,
        acting,
        lambda: acting.report(output="begin\n" + bars(0, 0)),
        lambda: acting.report(output=bars(50, 10)),
        lambda: acting.report(output=bars(100, 90)),
        lambda: acting.report(output=bars(100, 100) + "\n\nend\n"),
        acting.end,
    )
    stream = io.StringIO()
    watch(jobs, acting.id, stream)
    lines = [line for line in stream.getvalue().splitlines() if not line.startswith(("IN_PROGRESS", "COMPLETED"))]
    assert lines == ["begin", "A 100 %", "B 100 %", "end"]


def test_a_terminal_shows_colours_and_the_bar_that_is_being_drawn(
    jobs: BackJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = screens(jobs, monkeypatch, {"output": "\x1b[32mgreen\x1b[0m\n\r 45 % |###  |"}, completed, "done")
    assert before.startswith("green\n")
    assert before.splitlines()[-1].endswith(" 45 % |###  |")
    assert after.startswith("green\n 45 % |###  |\n")


@pytest.mark.parametrize(("no_colour", "is_coloured"), [("", True), ("1", False)])
def test_colours_of_the_output_can_be_switched_off(
    jobs: BackJob, monkeypatch: pytest.MonkeyPatch, no_colour: str, is_coloured: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", no_colour)
    acting, terminal = Acting(jobs).claim(), Terminal()
    acting.report(output="\x1b[1;38;2;1;2;3mcoloured\x1b[0m\n")
    acting.end(completed, "done")
    watch(jobs, acting.id, terminal)
    assert ("\x1b[1;38;2;1;2;3mcoloured\x1b[0m" in terminal.getvalue()) is is_coloured


def test_a_job_is_watched_until_it_ends(jobs: BackJob) -> None:
    acting = Acting(jobs).claim()
    first_line = threading.Event()

    class Stream(io.StringIO):
        def flush(self) -> None:
            first_line.set()

    def end() -> None:
        first_line.wait(TIMEOUT)
        acting.report(output="late\n")
        acting.end(failed, "too bad")

    thread = threading.Thread(target=end)
    thread.start()
    stream = Stream()
    assert watch(jobs, acting.id, stream) == 1
    thread.join(TIMEOUT)
    assert stream.getvalue().splitlines()[-2:] == ["late", "FAILED        0 %  too bad"]


def screens(
    jobs: BackJob, monkeypatch: pytest.MonkeyPatch, report: dict[str, object], end: Callable[..., End], text: str
) -> tuple[str, str]:
    """Return what the terminal shows after a report, and after the end."""
    acting, terminal = Acting(jobs).claim(), Terminal()
    seen: list[str] = []
    scripted(
        jobs,
        monkeypatch,
        acting,
        lambda: acting.report(**report),
        lambda: seen.append(str(terminal.screen(200))),
        lambda: acting.end(end, text),
    )
    assert watch(jobs, acting.id, terminal) == OF_STATUS[jobs.status(acting.id).status]
    return seen[0], str(terminal.screen(500))


def test_a_terminal_shows_a_bar_below_the_output_and_keeps_the_final_line(
    jobs: BackJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    report: dict[str, object] = {"progress": 50, "text": "halfway", "output": "said\nun"}
    before, after = screens(jobs, monkeypatch, report, completed, "done")
    said, bar = before.splitlines()
    assert said == "said"
    assert "█" in bar
    assert re.search(r" 50 %  [\d:]+  halfway$", bar)
    assert after.splitlines() == ["said", "un", "✔ Done       100 %  0:00  done"]


def test_a_job_cannot_send_control_characters_to_the_terminal(jobs: BackJob, monkeypatch: pytest.MonkeyPatch) -> None:
    report: dict[str, object] = {"output": f"output {EVIL} [red]r[/red]\n", "text": f"text {EVIL} [b]b[/b]"}
    before, after = screens(jobs, monkeypatch, report, failed, f"end {EVIL} [i]i[/i]")
    assert "\\u202e [b]b[/b]" in before  # a carriage return overwrites "text" and what follows it
    assert "\\u202e [red]r[/red]\n" in after
    assert after.endswith("\\u202e [i]i[/i]")
    assert all(character.isprintable() or character == "\n" for character in before + after)


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_without_cursor_control_gets_plain_lines(
    jobs: BackJob, monkeypatch: pytest.MonkeyPatch, term: str
) -> None:
    monkeypatch.setenv("TERM", term)
    acting, terminal = Acting(jobs).claim(), Terminal()
    acting.report(output=EVIL)
    acting.end(completed, "done")
    watch(jobs, acting.id, terminal)
    output, end = terminal.getvalue().splitlines()
    assert output.startswith("\\u202e")
    assert output.isprintable()
    assert end == "COMPLETED   100 %  done"


def test_an_unknown_job_is_not_found(jobs: BackJob) -> None:
    with pytest.raises(JobNotFound):
        watch(jobs, "unknown", io.StringIO())


# --- the program ----------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[BackJob]:
    with quiet_jobs(SQLiteStore(tmp_path / "jobs.db")) as jobs:
        yield jobs


@pytest.fixture
def running(stored: BackJob) -> Acting:
    acting = Acting(stored).claim()
    acting.report(progress=40, text="Exporting", output="said\n")
    return acting


def arguments(tmp_path: Path, acting: Acting) -> list[str]:
    return ["-m", "backjob", "watch", acting.id, "--store", f"sqlite:///{tmp_path / 'jobs.db'}"]


@pytest.mark.slow
def test_on_a_terminal_the_program_draws_a_bar_and_leaves_the_final_line(tmp_path: Path, running: Acting) -> None:
    with on_terminal(arguments(tmp_path, running)) as program:
        program.child.expect("said.*█.*Exporting")
        running.report(output="more\n")
        program.child.expect("more")
        running.end(failed, "disk full")
        assert program.end() == 1
    said, more, end = str(program.screen()).splitlines()
    assert (said, more) == ("said", "more")
    assert end.startswith("✘ Failed      40 %")
    assert end.endswith("disk full")


@pytest.mark.slow
def test_on_a_narrow_ascii_terminal_the_bar_fits_in_ascii(tmp_path: Path, running: Acting) -> None:
    ascii_only = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "NO_COLOR": "1"}
    with on_terminal(arguments(tmp_path, running), ascii_only, columns=60) as program:
        program.child.expect(r"Running    \[#######\.{12}\]   40 %  \d+:\d\d")
        running.report(text="漢" * 40)
        program.child.expect(r"\\u6f22")
        running.end()
        assert program.end() == 0
    screen = program.screen()
    assert screen.colours == set()
    assert str(screen).splitlines()[:1] == ["said"]
    assert "+ Done       100 %" in str(screen)


def test_ctrl_c_on_a_terminal_stops_watching_and_leaves_the_job_running(
    tmp_path: Path, stored: BackJob, running: Acting
) -> None:
    with on_terminal(arguments(tmp_path, running)) as program:
        program.child.expect("Exporting")
        program.child.sendcontrol("c")
        assert program.end() == 130
    shown = str(program.screen()).splitlines()
    assert (shown[0], shown[-1]) == ("said", f"The job continues. To cancel it: backjob cancel {running.id}")
    assert "Traceback" not in "".join(shown)
    assert stored.status(running.id).status is Status.IN_PROGRESS


@pytest.mark.slow
def test_sigint_in_a_pipe_stops_watching_and_leaves_the_job_running(
    tmp_path: Path, stored: BackJob, running: Acting
) -> None:
    with subprocess.Popen(
        [sys.executable, *arguments(tmp_path, running)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "said\n"
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=TIMEOUT)
    assert program.returncode == 130
    assert errors.splitlines() == ["", f"The job continues. To cancel it: backjob cancel {running.id}"]
    assert stored.status(running.id).status is Status.IN_PROGRESS
