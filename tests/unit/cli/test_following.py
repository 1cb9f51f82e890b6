"""Following a job: in a pipe, on a terminal, with rich and without, and what Ctrl-C does."""

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
from backjob.cli.following import EXIT_CODES, follow, watch
from backjob.lifecycle import End, cancelled, completed, ended, failed
from backjob.model import Expect, Report
from backjob.stores.sqlite import SQLiteStore
from tests.unit.acting import Acting, quiet_jobs
from tests.unit.terminals import Terminal, on_terminal

PATIENCE = 10.0  # s
ROOT = Path(__file__).parents[3]
EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\x08\u202e"
QUESTION = "[l]eave it running, [c]ancel it, or go on [w]atching? [l]"
NO_RICH = "import sys; sys.modules['rich'] = None; from backjob.cli import main; sys.exit(main())"


@pytest.fixture
def jobs() -> Iterator[BackJob]:
    with quiet_jobs() as jobs:
        yield jobs


@pytest.fixture(autouse=True)
def an_able_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture(params=["rich", "plain"])
def drawing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With rich, and as if it were not installed."""
    if request.param == "plain":
        monkeypatch.setitem(sys.modules, "rich", None)
        for name in [name for name in sys.modules if name == "backjob.cli.rich_bar" or name.startswith("rich.")]:
            monkeypatch.delitem(sys.modules, name)
    return str(request.param)


def scripted(jobs: BackJob, monkeypatch: pytest.MonkeyPatch, acting: Acting, *steps: Callable[[], object]) -> None:
    """Have ``watch`` see the job after each of the steps; begun anew it goes on where it was."""
    left = iter(steps)

    def watch(_job_id: str) -> Iterator[JobState]:
        yield jobs.status(acting.id)
        for step in left:
            step()
            yield jobs.status(acting.id)

    monkeypatch.setattr(jobs, "watch", watch)


@pytest.mark.parametrize(("end", "code"), [(completed, 0), (failed, 1), (cancelled, 2)])
def test_following_tells_the_end_by_the_code_and_the_last_line(
    jobs: BackJob, end: Callable[[str], End], code: int
) -> None:
    acting = Acting(jobs).claim().end(end, "so it ends")
    stream = io.StringIO()
    assert follow(jobs, acting.id, stream) == code
    last = stream.getvalue().splitlines()[-1]
    assert last.startswith(Status(code + 2).name)
    assert last.endswith("so it ends")


def test_plain_lines_tell_progress_and_output_in_order_each_once(
    jobs: BackJob, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert follow(jobs, acting.id, stream) == 0
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


def test_output_of_many_pieces_is_complete_and_unchanged_in_a_file(jobs: BackJob) -> None:
    acting = Acting(jobs).claim()
    text = "".join(f"{number} ä\n" for number in range(30_000)) + EVIL
    acting.report(output=text)
    acting.end()
    stream = io.StringIO()
    follow(jobs, acting.id, stream)
    assert text in stream.getvalue()


def test_a_truncated_output_is_said_to_be(jobs: BackJob) -> None:
    acting = Acting(jobs).claim()
    acting.report(output="beginning\n", truncated=True)
    acting.end()
    stream = io.StringIO()
    follow(jobs, acting.id, stream)
    assert "the rest is missing" in stream.getvalue()


def test_a_job_that_ends_meanwhile_is_followed_to_its_end(jobs: BackJob) -> None:
    acting = Acting(jobs).claim()
    first_line = threading.Event()

    class Stream(io.StringIO):
        def flush(self) -> None:
            first_line.set()

    def end() -> None:
        first_line.wait(PATIENCE)
        acting.report(output="late\n")
        acting.end(failed, "too bad")

    thread = threading.Thread(target=end)
    thread.start()
    stream = Stream()
    assert follow(jobs, acting.id, stream) == 1
    thread.join(PATIENCE)
    assert stream.getvalue().splitlines()[-2:] == ["late", "FAILED        0 %  too bad"]


def seen_while_and_after(
    jobs: BackJob, monkeypatch: pytest.MonkeyPatch, report: dict[str, object], end: Callable[..., End], text: str
) -> tuple[str, str]:
    """What is seen on a terminal after a report, and after the end."""
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
    assert follow(jobs, acting.id, terminal) == EXIT_CODES[jobs.status(acting.id).status]
    return seen[0], str(terminal.screen(500))


def test_a_terminal_gets_a_bar_below_the_output_and_the_end_for_good(
    jobs: BackJob, monkeypatch: pytest.MonkeyPatch, drawing: str
) -> None:
    report: dict[str, object] = {"progress": 50, "text": "halfway", "output": "said\nun"}
    before, after = seen_while_and_after(jobs, monkeypatch, report, completed, "done")
    said, bar = before.splitlines()
    assert said == "said"
    assert {"rich": "━", "plain": "█"}[drawing] in bar
    assert re.search(r" 50 %  [\d:]+  halfway$", bar)
    assert after.splitlines() == ["said", "un", "✔ Completed  100 %  0:00  done"]


def test_nothing_that_a_job_says_commands_the_terminal(
    jobs: BackJob, monkeypatch: pytest.MonkeyPatch, drawing: str
) -> None:
    report: dict[str, object] = {"output": f"output {EVIL} [red]r[/red]\n", "text": f"text {EVIL} [b]b[/b]"}
    before, after = seen_while_and_after(jobs, monkeypatch, report, failed, f"end {EVIL} [i]i[/i]")
    spelled = "\\x1b[2J\\x1b]0;owned\\x07\\x9b31m\\x0d\\x08\\u202e"
    assert "  text \\x1b[2J" in before
    assert f"output {spelled} [red]r[/red]\n" in after
    assert after.endswith(f"end {spelled} [i]i[/i]")


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_that_can_not_draw_gets_plain_lines(
    jobs: BackJob, monkeypatch: pytest.MonkeyPatch, term: str
) -> None:
    monkeypatch.setenv("TERM", term)
    acting, terminal = Acting(jobs).claim(), Terminal()
    acting.report(output=EVIL)
    acting.end(completed, "done")
    follow(jobs, acting.id, terminal)
    output, end = terminal.getvalue().splitlines()
    assert output.startswith("\\x1b[2J")
    assert output.isprintable()
    assert end == "COMPLETED   100 %  done"


def test_following_an_unknown_job_is_not_found(jobs: BackJob) -> None:
    with pytest.raises(JobNotFound):
        follow(jobs, "nobody", io.StringIO())


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------


def typed(monkeypatch: pytest.MonkeyPatch, answers: list[str | None]) -> Terminal:
    """A keyboard at which somebody answers like this, ``None`` being another Ctrl-C."""

    def readline() -> str:
        answer = answers.pop(0)
        if answer is None:
            raise KeyboardInterrupt
        return answer

    keyboard = Terminal()
    monkeypatch.setattr(keyboard, "readline", readline)
    return keyboard


def interrupted(jobs: BackJob, monkeypatch: pytest.MonkeyPatch) -> Acting:
    """A job that is being watched, and shows all of its output, when Ctrl-C comes; it goes on after that."""
    acting = Acting(jobs).claim()
    acting.report(progress=50, output="one\ntw")

    def press() -> None:
        raise KeyboardInterrupt

    scripted(
        jobs,
        monkeypatch,
        acting,
        press,
        lambda: jobs.store.report(acting.id, "token", Report(output="o\n")),
        lambda: jobs.store.change(acting.id, Expect(status=Status.IN_PROGRESS), ended(completed())),
    )
    return acting


@pytest.mark.parametrize("answers", [["\n"], ["l\n"], ["Leave\n"], [""], [None], ["x\n", None]])
def test_ctrl_c_on_a_terminal_may_leave_the_job_running(
    jobs: BackJob, monkeypatch: pytest.MonkeyPatch, drawing: str, answers: list[str | None]
) -> None:
    acting, terminal, left = interrupted(jobs, monkeypatch), Terminal(), answers.copy()
    assert watch(jobs, acting.id, terminal, typed(monkeypatch, left)) == 130
    assert jobs.status(acting.id).status is Status.IN_PROGRESS
    assert left == []
    asked = str(terminal.screen(200))
    assert asked.startswith(f"one\n{QUESTION}")
    assert asked.count(QUESTION) == len(answers)


def test_ctrl_c_on_a_terminal_may_cancel_the_job(jobs: BackJob, monkeypatch: pytest.MonkeyPatch) -> None:
    acting, terminal = interrupted(jobs, monkeypatch), Terminal()
    assert watch(jobs, acting.id, terminal, typed(monkeypatch, ["c\n"])) == 2
    assert jobs.status(acting.id).status is Status.CANCELLED
    assert "Cancelled" in str(terminal.screen())


def test_ctrl_c_on_a_terminal_may_go_on_and_no_output_is_shown_twice(
    jobs: BackJob, monkeypatch: pytest.MonkeyPatch, drawing: str
) -> None:
    acting, terminal = interrupted(jobs, monkeypatch), Terminal()
    assert watch(jobs, acting.id, terminal, typed(monkeypatch, ["w\n"])) == 0
    shown = str(terminal.screen()).replace(f"{QUESTION} ", "").splitlines()
    assert shown == ["one", "two", "✔ Completed  100 %  0:00"]


@pytest.mark.parametrize(
    ("stream", "keyboard"),
    [(io.StringIO(), Terminal()), (Terminal(), io.StringIO()), (Terminal(), None)],
    ids=["stdout", "stdin", "none"],
)
def test_ctrl_c_without_a_terminal_to_ask_at_leaves(
    jobs: BackJob, monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, keyboard: io.StringIO | None
) -> None:
    acting = interrupted(jobs, monkeypatch)
    assert watch(jobs, acting.id, stream, keyboard) == 130
    assert jobs.status(acting.id).status is Status.IN_PROGRESS


# --- the program, on a real terminal --------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[BackJob]:
    with quiet_jobs(SQLiteStore(tmp_path / "jobs.db")) as jobs:
        yield jobs


@pytest.fixture
def running(stored: BackJob) -> Acting:
    acting = Acting(stored).claim()
    acting.report(progress=40, text="Exporting", output="said\n")
    return acting


def arguments(tmp_path: Path, acting: Acting, *python: str) -> list[str]:
    return [*(python or ("-m", "backjob")), "watch", acting.id, "--store", f"sqlite:///{tmp_path / 'jobs.db'}"]


def test_the_program_draws_follows_and_leaves_a_clean_terminal(tmp_path: Path, running: Acting) -> None:
    with on_terminal(arguments(tmp_path, running)) as terminal:
        terminal.until(lambda seen: seen.startswith("said\n") and "━" in seen and "Exporting" in seen)
        running.report(output="more\n")
        terminal.until(lambda seen: "\nmore\n" in seen)
        running.end(failed, "disk full")
        assert terminal.end() == 1
    said, more, end = str(terminal.screen).splitlines()
    assert (said, more) == ("said", "more")
    assert end.startswith("✘ Failed      40 %")
    assert end.endswith("disk full")


def test_the_program_draws_without_rich_in_ascii_and_on_a_narrow_terminal(tmp_path: Path, running: Acting) -> None:
    ascii_only = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "NO_COLOR": "1"}
    with on_terminal(arguments(tmp_path, running, "-c", NO_RICH), ascii_only, columns=60) as terminal:
        seen = terminal.until(lambda seen: " 40 % " in seen)
        assert re.search(r"Running    \[#######\.{12}\]   40 %  \d+:\d\d", seen)
        running.report(text="漢" * 40)
        terminal.until(lambda seen: "\\u" in seen)
        running.end()
        assert terminal.end() == 0
    assert terminal.screen.colours == set()
    assert str(terminal.screen).splitlines()[:1] == ["said"]
    assert "+ Completed  100 %" in str(terminal.screen)


@pytest.mark.parametrize(("keys", "code"), [("\n", 130), ("\x03", 130), ("c\n", 2)], ids=["leave", "again", "cancel"])
def test_ctrl_c_asks_at_a_real_terminal(tmp_path: Path, stored: BackJob, running: Acting, keys: str, code: int) -> None:
    with on_terminal(arguments(tmp_path, running)) as terminal:
        terminal.until(lambda seen: "Exporting" in seen)
        terminal.type("\x03")
        seen = terminal.until(lambda seen: QUESTION in seen)
        assert seen == f"said\n{QUESTION}"
        terminal.type(keys)
        assert terminal.end() == code
    assert stored.status(running.id).status is (Status.CANCELLED if code == 2 else Status.IN_PROGRESS)
    assert "Traceback" not in str(terminal.screen)


def test_a_signal_in_a_pipe_leaves_the_job_alone(tmp_path: Path, stored: BackJob, running: Acting) -> None:
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
        _, errors = program.communicate(timeout=PATIENCE)
    assert (program.returncode, errors) == (130, "")
    assert stored.status(running.id).status is Status.IN_PROGRESS


def test_rich_is_not_imported_where_nothing_is_drawn(tmp_path: Path, running: Acting) -> None:
    running.end()
    program = "import sys; from backjob.cli import main; main(); print([n for n in sys.modules if n == 'rich'])"
    done = subprocess.run(
        [sys.executable, *arguments(tmp_path, running, "-c", program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"
