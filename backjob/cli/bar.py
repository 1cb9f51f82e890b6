"""A job's progress on one line of a terminal, drawn again and again below the output that scrolls by.

`Bar` keeps that line; how it looks is a function's affair: `plain`, or `backjob.rich_bar.rich` where rich is installed.
"""

from __future__ import annotations

import os
import shutil
import threading
import unicodedata
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TextIO, TypeAlias

from attrs import frozen

from backjob.clock import SystemClock
from backjob.model import JobState, Status
from backjob.protocols import Clock

__all__ = ["EVERY", "WORDS", "Bar", "Drawing", "Standing", "gauge_width", "plain"]

WORDS: Final = {
    Status.STARTED: "Waiting",
    Status.IN_PROGRESS: "Running",
    Status.COMPLETED: "Completed",
    Status.FAILED: "Failed",
    Status.CANCELLED: "Cancelled",
}
"""The status, for a person."""

EVERY: Final = 0.1
"""Seconds between two drawings."""

_CLEAR_LINE: Final = "\r\x1b[K"
_CLEAR_REST: Final = "\x1b[K"
_NARROWEST: Final = 20
_UNLIMITED: Final = 1 << 16
_ECHO: Final = 3  # a terminal shows Ctrl-C as ^C where the line ends; one column more, and it wraps
_BLOCK: Final = 3
_SHORTEST: Final = 8
_BESIDE: Final = 30

_COLOURS: Final = {Status.COMPLETED: "32", Status.FAILED: "31", Status.CANCELLED: "33"}
_RUNNING: Final = "36"


@frozen
class Standing:
    """A job as a bar shows it at one moment. ``text`` is one line, and safe to show.

    ``seconds`` are those since the job was due (negative: until it is), ``turn`` counts the drawings.
    """

    status: Status
    progress: int
    text: str
    seconds: float = 0.0
    turn: int = 0

    @property
    def indeterminate(self) -> bool:
        """Whether it runs, and nothing is known of how far it is."""
        return self.status is Status.IN_PROGRESS and self.progress == 0

    @property
    def time(self) -> str:
        """How long it has been at it: ``4:05``, ``1:00:00``; of a delayed job how long it has to wait: ``in 4:05``."""
        minutes, seconds = divmod(int(abs(self.seconds)), 60)
        hours, minutes = divmod(minutes, 60)
        length = f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
        return f"in {length}" if self.seconds < 0 else length


Drawing: TypeAlias = Callable[[Standing, int], str]
"""Draws a line that takes so many columns of a terminal at most."""


def gauge_width(standing: Standing, room: int) -> int:
    """How long the bar itself is on a line of so many columns: 0 at the end, and where status and percents need them."""
    width = min(room // 3, room - _BESIDE)
    return 0 if standing.status.is_final or width < _SHORTEST else width


# --- the plain bar --------------------------------------------------------------------------------------------------


@frozen
class _Glyphs:
    filled: str
    empty: str
    spinner: str
    ends: str
    edges: tuple[str, str] = ("", "")


_BLOCKS: Final = _Glyphs("█", "░", "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "✔✘■")
_ASCII: Final = _Glyphs("#", ".", "|/-\\", "+x-", ("[", "]"))


def plain(stream: TextIO) -> Drawing:
    """How the bar looks without rich: blocks, or ASCII where the stream's encoding has nothing else."""
    every = _BLOCKS.filled + _BLOCKS.empty + _BLOCKS.spinner + _BLOCKS.ends
    glyphs = _BLOCKS if _encodable(every, stream) == every else _ASCII
    colours = not os.environ.get("NO_COLOR")  # https://no-color.org

    def draw(standing: Standing, room: int) -> str:
        parts = [
            (f"{_mark(standing, glyphs)} {WORDS[standing.status]:<9}", _COLOURS.get(standing.status, "")),
            *_gauge(standing, glyphs, room),
            (f"  {standing.progress:3d} %  {standing.time:>4}", ""),
            (f"  {standing.text}", ""),
        ]
        return _joined(parts, room, colours=colours).rstrip()

    return draw


def _mark(standing: Standing, glyphs: _Glyphs) -> str:
    if standing.status.is_final:
        return glyphs.ends[standing.status - Status.COMPLETED]
    return glyphs.spinner[standing.turn % len(glyphs.spinner)]


def _gauge(standing: Standing, glyphs: _Glyphs, room: int) -> list[tuple[str, str]]:
    """The bar itself, in which a block wanders while there is no progress."""
    width = gauge_width(standing, room)
    if not width:
        return []
    before, filled = 0, standing.progress * width // 100
    if standing.indeterminate:
        way = width - _BLOCK
        before, filled = way - abs(way - standing.turn % (2 * way)), _BLOCK
    left, right = glyphs.edges
    rest = glyphs.empty * (width - before - filled)
    return [(f"  {left}{glyphs.empty * before}", ""), (glyphs.filled * filled, _RUNNING), (rest + right, "")]


def _joined(parts: list[tuple[str, str]], room: int, *, colours: bool) -> str:
    """As much of the parts as fits: a line that wraps could not be drawn again."""
    line = ""
    for text, colour in parts:
        shown = ""
        for character in text:
            room -= 2 if unicodedata.east_asian_width(character) in "WF" else 1
            if room < 0:
                break
            shown += character
        line += f"\x1b[{colour}m{shown}\x1b[0m" if colours and colour and shown else shown
        if room < 0:
            break
    return line


# --- on the terminal ------------------------------------------------------------------------------------------------


class Bar:
    """Draws a line ten times a second while its block lasts, below whatever is written by it meanwhile.

    Raises what writing to the stream raises.
    """

    def __init__(self, stream: TextIO, draw: Drawing, clock: Clock | None = None) -> None:
        self._stream = stream
        self._draw = draw
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._ticking = threading.Thread(target=self._tick, name="backjob-bar", daemon=True)
        self._state: JobState | None = None
        self._text = ""
        self._turn = 0

    def __enter__(self) -> Self:
        self._ticking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._ticking.join()
        self._write(_CLEAR_LINE)

    def output(self, text: str) -> None:
        """Let whole lines scroll by above the bar."""
        with self._lock:
            self._write(_CLEAR_LINE + _encodable(text, self._stream) + self._line())

    def state(self, state: JobState, text: str) -> None:
        """Show where the job stands, with a text of one line. At its end that line is left standing."""
        with self._lock:
            self._state, self._text = state, _encodable(text, self._stream)
            self._write(self._line())
            if state.status.is_final:
                self._write("\n")
                self._state = None

    def _tick(self) -> None:
        while not self._over.wait(EVERY):
            with self._lock:
                self._turn += 1
                try:
                    self._write(self._line())
                except OSError:
                    return  # nobody looks any more; whoever writes next learns of it too

    def _line(self) -> str:
        """The line, drawn over the one before."""
        if self._state is None:
            return ""
        standing = Standing(
            self._state.status, self._state.progress, self._text, self._seconds(self._state), self._turn
        )
        room = _UNLIMITED if self._state.status.is_final else _columns(self._stream) - _ECHO
        return f"\r{self._draw(standing, room)}{_CLEAR_REST}"

    def _seconds(self, state: JobState) -> float:
        if state.status.is_final:
            return max(0.0, ((state.end_time or state.updated_time) - state.start_time).total_seconds())
        seconds = (self._clock.now() - state.start_time).total_seconds()
        return seconds if state.status is Status.STARTED else max(0.0, seconds)

    def _write(self, text: str) -> None:
        if text:
            self._stream.write(text)
            self._stream.flush()


def _columns(stream: TextIO) -> int:
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return max(_NARROWEST, columns or shutil.get_terminal_size().columns)


def _encodable(text: str, stream: TextIO) -> str:
    r"""The text with what the stream's encoding can't say spelled out (``\u6f22``)."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
