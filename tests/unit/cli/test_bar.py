"""The progress bar: its line, and how it is redrawn on a terminal."""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest

from backjob import JobState, Status
from backjob.cli.bar import Bar, Progress, Style, draw
from backjob.testing import FakeClock
from tests.unit.terminals import Terminal, cells

TIMEOUT = 60.0  # s
RUNNING = Progress(Status.IN_PROGRESS, 42, "Exporting", seconds=65)
ESCAPE = re.compile(r"\x1b\[[\d;]*m")


@pytest.fixture(autouse=True)
def colour_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def encoded_as(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


def visible(line: str) -> str:
    return ESCAPE.sub("", line)


def line_of(progress: Progress, columns: int = 79, encoding: str = "utf-8") -> str:
    """Draw for a stream of this encoding."""
    return draw(progress, Style.of(encoded_as(encoding)), columns)


# --- the line -------------------------------------------------------------------------------------------------------


def test_the_line_has_status_bar_progress_time_and_text() -> None:
    assert re.fullmatch(r"\S Running    [█░]{26}   42 %  1:05  Exporting", visible(line_of(RUNNING)))


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (Status.COMPLETED, "✔ Done        42 %  1:05  Exporting"),
        (Status.FAILED, "✘ Failed      42 %  1:05  Exporting"),
        (Status.CANCELLED, "■ Cancelled   42 %  1:05  Exporting"),
    ],
)
def test_a_final_state_has_no_bar(status: Status, line: str) -> None:
    assert visible(line_of(Progress(status, 42, "Exporting", seconds=65))) == line


def test_the_line_fits_every_width_and_keeps_the_percentage() -> None:
    for columns in range(19, 140):
        for progress, text in ((0, ""), (42, "漢字 of the row " * 20), (100, "🚀 ä" * 40)):
            line = visible(line_of(Progress(Status.IN_PROGRESS, progress, text, 65), columns))
            assert cells(line) <= columns
            assert f"{progress:3d} %" in line
            assert line.isprintable()


def test_the_bar_grows() -> None:
    lines = [line_of(Progress(Status.IN_PROGRESS, progress, "")) for progress in (5, 25, 50, 99)]
    assert [line.count("█") for line in lines] == [1, 6, 13, 25]


def test_a_block_moves_while_the_progress_is_unknown() -> None:
    frames = {line_of(Progress(Status.IN_PROGRESS, 0, "", frame=frame))[3:] for frame in range(60)}
    assert len(frames) > 10
    assert len({cells(visible(frame)) for frame in frames}) == 1


def test_the_spinner_turns_while_the_job_waits() -> None:
    assert len({line_of(Progress(Status.STARTED, 0, "", frame=frame)) for frame in range(4)}) == 4


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_the_line_is_ascii_if_the_encoding_has_no_blocks(encoding: str) -> None:
    for status in Status:
        assert line_of(Progress(status, 42, "Exporting"), encoding=encoding).isascii()
    assert line_of(Progress(Status.IN_PROGRESS, 0, ""), encoding=encoding).isascii()


def test_no_color_disables_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.search(r"\x1b\[[\d;]*3\d", line_of(RUNNING))
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in line_of(RUNNING)


@pytest.mark.parametrize(
    ("seconds", "time"),
    [(0, "0:00"), (9.9, "0:09"), (605, "10:05"), (3600, "1:00:00"), (90_061, "25:01:01"), (-61, "in 1:01")],
)
def test_time_is_shown_in_minutes_or_hours(seconds: float, time: str) -> None:
    assert Progress(Status.STARTED, 0, "", seconds).time == time


# --- on a terminal --------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def state(clock: FakeClock, status: Status = Status.IN_PROGRESS, progress: int = 10, due: float = 0.0) -> JobState:
    now = clock.now()
    return JobState(
        id="job",
        status=status,
        progress=progress,
        status_text="",
        start_time=now + timedelta(seconds=due),
        updated_time=now,
        claimed_time=None if status is Status.STARTED else now + timedelta(seconds=due),
        end_time=now + timedelta(seconds=75) if status.is_final else None,
        result=None,
        owner=None,
        scope="",
    )


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


@pytest.fixture
def bar(terminal: Terminal, clock: FakeClock) -> Iterator[Bar]:
    with Bar(terminal, clock) as bar:
        yield bar


def test_output_scrolls_above_the_bar_and_the_final_line_stays(bar: Bar, terminal: Terminal, clock: FakeClock) -> None:
    bar.output("before\n")
    bar.state(state(clock), "Reading")
    bar.output("one\ntwo\n")
    *above, line = str(terminal.screen()).splitlines()
    assert above == ["before", "one", "two"]
    assert line.endswith("10 %  0:00  Reading")
    bar.state(state(clock, Status.COMPLETED, 100), "Ready")
    bar.output("after\n")
    assert str(terminal.screen()).splitlines() == [*above, "✔ Done       100 %  1:15  Ready", "after"]


def test_the_bar_is_erased_if_its_block_ends_before_the_job(terminal: Terminal, clock: FakeClock) -> None:
    with Bar(terminal, clock) as bar:
        bar.output("said\n")
        bar.state(state(clock), "Reading")
        assert "Reading" in str(terminal.screen())
    assert str(terminal.screen()) == "said"


def test_time_and_spinner_advance_between_updates(clock: FakeClock) -> None:
    drawn = threading.Event()

    class Watched(Terminal):
        def write(self, text: str) -> int:
            if "0:07" in text:
                drawn.set()
            return super().write(text)

    terminal = Watched()
    with Bar(terminal, clock) as bar:
        bar.state(state(clock), "")
        clock.advance(7)
        assert drawn.wait(TIMEOUT)
    spinners = re.findall(r"\r(.) Running", terminal.getvalue())
    assert len(set(spinners)) > 1


def test_a_delayed_job_shows_the_time_until_it_is_due(bar: Bar, terminal: Terminal, clock: FakeClock) -> None:
    bar.state(state(clock, Status.STARTED, 0, due=125), "")
    assert str(terminal.screen()).endswith("0 %  in 2:05")


def test_time_is_not_negative_if_clocks_disagree(bar: Bar, terminal: Terminal, clock: FakeClock) -> None:
    bar.state(state(clock, due=3), "")
    assert str(terminal.screen()).endswith("10 %  0:00")


def test_a_long_text_is_cut_while_the_job_runs_and_complete_at_the_end(
    bar: Bar, terminal: Terminal, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((60, 24)))
    text = " ".join(f"word{number}" for number in range(60))
    bar.state(state(clock), text)
    [line] = str(terminal.screen(60)).splitlines()
    assert cells(line) in (56, 57)
    bar.state(state(clock, Status.FAILED), text)
    assert text in str(terminal.screen(10_000))


def test_characters_missing_from_the_encoding_become_escapes(clock: FakeClock) -> None:
    stream = encoded_as("latin-1")
    with Bar(stream, clock) as bar:
        bar.output("smörgåsbord 漢\n")
        bar.state(state(clock, Status.COMPLETED), "漢")
    assert isinstance(stream.buffer, io.BytesIO)
    written = stream.buffer.getvalue().decode("latin-1")
    assert "smörgåsbord \\u6f22\n" in written
    assert "+ Done        10 %  1:15  \\u6f22" in visible(written)


def test_drawing_stops_silently_if_the_terminal_is_gone(clock: FakeClock) -> None:
    gone = threading.Event()

    class Gone(Terminal):
        def write(self, text: str) -> int:
            if gone.is_set():
                raise OSError(5, "Input/output error")
            return super().write(text)

    bar = Bar(Gone(), clock)
    bar.__enter__()
    bar.state(state(clock), "")
    gone.set()
    [drawing] = [thread for thread in threading.enumerate() if thread.name == "backjob-bar"]
    drawing.join(TIMEOUT)
    assert not drawing.is_alive()
    with pytest.raises(OSError, match="Input/output"):
        bar.output("more\n")
