"""The bar: how it is drawn, with rich and without, and how it is kept on one line of a terminal."""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TextIO

import pytest

from backjob import JobState, Status
from backjob.cli.bar import Bar, Drawing, Standing, plain
from backjob.cli.rich_bar import rich
from backjob.testing import FakeClock
from tests.unit.terminals import Terminal, cells

PATIENCE = 10.0  # s
RUNNING = Standing(Status.IN_PROGRESS, 42, "Exporting", seconds=65)
ESCAPE = re.compile(r"\x1b\[[\d;]*m")

Look = Callable[[TextIO], Drawing]


@pytest.fixture(autouse=True)
def a_colourful_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def encoded_as(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


def seen(drawn: str) -> str:
    return ESCAPE.sub("", drawn)


looks = pytest.mark.parametrize("look", [plain, rich])


# --- how it is drawn ------------------------------------------------------------------------------------------------


@looks
def test_a_line_tells_status_progress_time_and_text(look: Look) -> None:
    line = seen(look(encoded_as("utf-8"))(RUNNING, 79))
    assert re.fullmatch(r"\S Running    [█░━╸╺]{26}   42 %  1:05  Exporting", line), line


@looks
@pytest.mark.parametrize(
    ("status", "line"),
    [
        (Status.COMPLETED, "✔ Completed   42 %  1:05  Exporting"),
        (Status.FAILED, "✘ Failed      42 %  1:05  Exporting"),
        (Status.CANCELLED, "■ Cancelled   42 %  1:05  Exporting"),
    ],
)
def test_an_end_has_no_bar(look: Look, status: Status, line: str) -> None:
    ended = Standing(status, 42, "Exporting", seconds=65)
    assert seen(look(encoded_as("utf-8"))(ended, 79)) == line


@looks
def test_what_is_drawn_fits_whatever_the_width_and_keeps_the_percents(look: Look) -> None:
    draw = look(encoded_as("utf-8"))
    for room in range(19, 140):
        for progress, text in ((0, ""), (42, "漢字 of the row " * 20), (100, "🚀 ä" * 40)):
            line = seen(draw(Standing(Status.IN_PROGRESS, progress, text, 65), room))
            assert cells(line) <= room
            assert f"{progress:3d} %" in line
            assert line.isprintable()


@looks
def test_the_bar_grows(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")  # rich then draws no more than what is filled
    draw = look(encoded_as("utf-8"))
    lines = [draw(Standing(Status.IN_PROGRESS, progress, ""), 79) for progress in (5, 25, 50, 99)]
    assert [len(re.findall("[█━]", line)) for line in lines] == [1, 6, 13, 25]


@looks
def test_something_moves_while_there_is_no_progress(look: Look) -> None:
    draw = look(encoded_as("utf-8"))
    frames = {draw(Standing(Status.IN_PROGRESS, 0, "", turn=turn), 79)[3:] for turn in range(60)}
    assert len(frames) > 10
    assert len({cells(seen(frame)) for frame in frames}) == 1


@looks
def test_the_spinner_turns_while_the_job_waits(look: Look) -> None:
    draw = look(encoded_as("utf-8"))
    assert len({draw(Standing(Status.STARTED, 0, "", turn=turn), 79) for turn in range(4)}) == 4


@looks
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_it_is_ascii_where_the_encoding_has_nothing_else(look: Look, encoding: str) -> None:
    draw = look(encoded_as(encoding))
    for status in Status:
        assert draw(Standing(status, 42, "Exporting"), 79).isascii()
    assert draw(Standing(Status.IN_PROGRESS, 0, ""), 79).isascii()


@looks
def test_no_color_is_respected(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.search(r"\x1b\[[\d;]*3\d", look(encoded_as("utf-8"))(RUNNING, 79))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[\d;]*[34]\d", look(encoded_as("utf-8"))(RUNNING, 79))


@looks
def test_markup_in_a_text_is_text(look: Look) -> None:
    text = "[bold red]x[/] :smile: [link=http://a]b[/link] \\[c]"
    assert seen(look(encoded_as("utf-8"))(Standing(Status.FAILED, 1, text), 200)).endswith(text)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0:00"), (9.9, "0:09"), (605, "10:05"), (3600, "1:00:00"), (90_061, "25:01:01"), (-61, "in 1:01")],
)
def test_times_are_short(seconds: float, told: str) -> None:
    assert Standing(Status.STARTED, 0, "", seconds).time == told


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
    with Bar(terminal, plain(terminal), clock) as bar:
        yield bar


def test_output_scrolls_by_above_the_bar_and_the_end_stays(bar: Bar, terminal: Terminal, clock: FakeClock) -> None:
    bar.output("before\n")
    bar.state(state(clock), "Reading")
    bar.output("one\ntwo\n")
    *above, line = str(terminal.screen()).splitlines()
    assert above == ["before", "one", "two"]
    assert line.endswith("10 %  0:00  Reading")
    bar.state(state(clock, Status.COMPLETED, 100), "Done")
    bar.output("after\n")
    assert str(terminal.screen()).splitlines() == [*above, "✔ Completed  100 %  1:15  Done", "after"]


def test_the_bar_leaves_no_trace_when_its_block_ends_before_the_job(terminal: Terminal, clock: FakeClock) -> None:
    with Bar(terminal, plain(terminal), clock) as bar:
        bar.output("said\n")
        bar.state(state(clock), "Reading")
        assert "Reading" in str(terminal.screen())
    assert str(terminal.screen()) == "said"


def test_time_goes_on_and_the_spinner_turns_without_news(clock: FakeClock) -> None:
    drawn = threading.Event()

    class Watched(Terminal):
        def write(self, text: str) -> int:
            if "0:07" in text:
                drawn.set()
            return super().write(text)

    terminal = Watched()
    with Bar(terminal, plain(terminal), clock) as bar:
        bar.state(state(clock), "")
        clock.advance(7)
        assert drawn.wait(PATIENCE)
    spinners = re.findall(r"\r(.) Running", terminal.getvalue())
    assert len(set(spinners)) > 1


def test_a_delayed_job_tells_how_long_it_waits(bar: Bar, terminal: Terminal, clock: FakeClock) -> None:
    bar.state(state(clock, Status.STARTED, 0, due=125), "")
    assert str(terminal.screen()).endswith("0 %  in 2:05")


def test_clocks_that_disagree_make_no_negative_time(bar: Bar, terminal: Terminal, clock: FakeClock) -> None:
    bar.state(state(clock, due=3), "")
    assert str(terminal.screen()).endswith("10 %  0:00")


def test_a_long_text_is_cut_while_it_runs_and_whole_at_the_end(
    bar: Bar, terminal: Terminal, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((60, 24)))
    text = " ".join(f"word{number}" for number in range(60))
    bar.state(state(clock), text)
    [line] = str(terminal.screen(60)).splitlines()
    assert cells(line) in (56, 57)
    bar.state(state(clock, Status.FAILED), text)
    assert text in str(terminal.screen(10_000))


def test_what_the_encoding_can_not_say_is_spelled_out(clock: FakeClock) -> None:
    stream = encoded_as("latin-1")
    with Bar(stream, plain(stream), clock) as bar:
        bar.output("smörgåsbord 漢\n")
        bar.state(state(clock, Status.COMPLETED), "漢")
    assert isinstance(stream.buffer, io.BytesIO)
    written = stream.buffer.getvalue().decode("latin-1")
    assert "smörgåsbord \\u6f22\n" in written
    assert "+ Completed   10 %  1:15  \\u6f22" in seen(written)


def test_a_terminal_that_went_away_ends_the_drawing_quietly(clock: FakeClock) -> None:
    gone = threading.Event()

    class Gone(Terminal):
        def write(self, text: str) -> int:
            if gone.is_set():
                raise OSError(5, "Input/output error")
            return super().write(text)

    bar = Bar(Gone(), plain(Terminal()), clock)
    bar.__enter__()
    bar.state(state(clock), "")
    gone.set()
    [drawing] = [thread for thread in threading.enumerate() if thread.name == "backjob-bar"]
    drawing.join(PATIENCE)
    assert not drawing.is_alive()
    with pytest.raises(OSError, match="Input/output"):
        bar.output("more\n")
