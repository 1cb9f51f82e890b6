"""A progress bar on the last line of a terminal, redrawn in place while the job's output scrolls above it."""

from __future__ import annotations

import os
import shutil
import threading
from types import TracebackType
from typing import Final, Self, TextIO

from attrs import frozen

from backjob.cli.speaking import language_for
from backjob.cli.widths import width_of
from backjob.clock import SystemClock
from backjob.model import JobState, Status
from backjob.protocols import Clock
from backjob.status.languages import ENGLISH, Language
from backjob.status.times import clock_text, run_seconds
from backjob.status.words import word_of

_COLOURS: Final = {Status.COMPLETED: "32", Status.FAILED: "31", Status.CANCELLED: "33"}
_BAR_COLOUR: Final = "36"

_INTERVAL: Final = 0.1  # s between two frames
_CLEAR_LINE: Final = "\r\x1b[K"
_CLEAR_REST: Final = "\x1b[K"
_MIN_COLUMNS: Final = 20
_UNLIMITED: Final = 1 << 16
_RESERVED: Final = 3  # the terminal echoes Ctrl-C as ^C at the cursor; if that wrapped, the line could not be redrawn
_MIN_BAR: Final = 8
_WORD_COLUMNS: Final = 9
_TEXT_COLUMNS: Final = 37  # for status, percentage and time
_BLOCK: Final = 3  # the length of the block that moves while the progress is unknown


@frozen
class Progress:
    """A job at one moment. ``text`` must be a single line that is safe to print.

    ``seconds`` counts from the beginning of the job, or from its due time, before which it is negative. ``frame`` drives the animation.
    """

    status: Status
    progress: int
    text: str
    seconds: float = 0.0
    frame: int = 0
    attempt: int = 1

    @property
    def time(self) -> str:
        """The time since the job began, such as ``4:05`` or ``1:00:00``; before it is due, ``in 4:05``."""
        length = clock_text(abs(self.seconds))
        return f"in {length}" if self.seconds < 0 else length


@frozen
class Style:
    """The characters that a stream can encode, and whether to use colours."""

    filled: str
    empty: str
    spinner: str
    ends: str
    edges: tuple[str, str]
    colours: bool
    language: Language = ENGLISH

    @classmethod
    def of(cls, stream: TextIO) -> Style:
        """Block characters if the stream can encode them, otherwise ASCII; colours unless ``NO_COLOR`` is set; its language."""
        colours = not os.environ.get("NO_COLOR")  # https://no-color.org
        language = language_for(stream)
        blocks = cls("█", "░", "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "✔✘■", ("", ""), colours, language)
        characters = blocks.filled + blocks.empty + blocks.spinner + blocks.ends
        if _encodable(characters, stream) == characters:
            return blocks
        return cls("#", ".", "|/-\\", "+x-", ("[", "]"), colours, language)


def draw(progress: Progress, style: Style, columns: int) -> str:
    """Return the line for a job, at most ``columns`` wide, with escape sequences for its colours."""
    status = progress.status
    mark = (
        style.ends[status - Status.COMPLETED] if status.is_final else style.spinner[progress.frame % len(style.spinner)]
    )
    word = word_of(status, progress.attempt, style.language)
    parts = [
        (f"{mark} {word:<{_WORD_COLUMNS}}", _COLOURS.get(status, "")),
        *_bar_parts(progress, style, columns - max(0, width_of(word) - _WORD_COLUMNS)),
        (f"  {progress.progress:3d} %  {progress.time:>4}", ""),
        (f"  {progress.text}", ""),
    ]
    return _fitted(parts, columns, colours=style.colours).rstrip()


def _bar_parts(progress: Progress, style: Style, columns: int) -> list[tuple[str, str]]:
    """Return the bar, or nothing for a final state or a narrow line. A block moves to and fro if the progress is unknown."""
    width = min(columns // 3, columns - _TEXT_COLUMNS)
    if progress.status.is_final or width < _MIN_BAR:
        return []
    before, filled = 0, progress.progress * width // 100
    if progress.status is Status.IN_PROGRESS and progress.progress == 0:
        travel = width - _BLOCK
        before, filled = travel - abs(travel - progress.frame % (2 * travel)), _BLOCK
    left, right = style.edges
    rest = style.empty * (width - before - filled)
    return [(f"  {left}{style.empty * before}", ""), (style.filled * filled, _BAR_COLOUR), (rest + right, "")]


def _fitted(parts: list[tuple[str, str]], columns: int, *, colours: bool) -> str:
    """Join the parts, and cut them to the width: a line that wraps could not be redrawn in place."""
    line = ""
    for text, colour in parts:
        shown = ""
        for character in text:
            columns -= width_of(character)
            if columns < 0:
                break
            shown += character
        line += f"\x1b[{colour}m{shown}\x1b[0m" if colours and colour and shown else shown
        if columns < 0:
            break
    return line


class Bar:
    """Redraws the bar ten times a second inside its ``with`` block. Output is printed above it.

    Errors from writing to the stream propagate.
    """

    def __init__(self, stream: TextIO, clock: Clock | None = None) -> None:
        self._stream = stream
        self._style = Style.of(stream)
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._animate, name="backjob-bar", daemon=True)
        self._state: JobState | None = None
        self._text = ""
        self._frame = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()
        self._write(_CLEAR_LINE)

    def output(self, text: str) -> None:
        """Print whole lines above the bar."""
        with self._lock:
            self._write(_CLEAR_LINE + _encodable(text, self._stream) + self._line())

    def state(self, state: JobState, text: str) -> None:
        """Show a job's state and one line of text. The line of a final state stays on the terminal."""
        with self._lock:
            self._state, self._text = state, _encodable(text, self._stream)
            self._write(self._line())
            if state.status.is_final:
                self._write("\n")
                self._state = None

    def _animate(self) -> None:
        while not self._closed.wait(_INTERVAL):
            with self._lock:
                self._frame += 1
                try:
                    self._write(self._line())
                except OSError:
                    return  # the terminal is gone; the next write in the main thread raises too

    def _line(self) -> str:
        """Return the text that draws the line over the previous one, or "" if no job is shown."""
        if self._state is None:
            return ""
        state = self._state
        status = state.status
        progress = Progress(status, state.progress, self._text, self._seconds(state), self._frame, state.attempt)
        columns = _UNLIMITED if status.is_final else columns_of(self._stream) - _RESERVED
        return f"\r{draw(progress, self._style, columns)}{_CLEAR_REST}"

    def _seconds(self, state: JobState) -> float:
        now = self._clock.now()
        if state.status is Status.STARTED:
            return (now - state.start_time).total_seconds()
        return run_seconds(state, now) or 0.0

    def _write(self, text: str) -> None:
        if text:
            self._stream.write(text)
            self._stream.flush()


def columns_of(stream: TextIO) -> int:
    """Return how many columns the terminal has."""
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return max(_MIN_COLUMNS, columns or shutil.get_terminal_size().columns)


def _encodable(text: str, stream: TextIO) -> str:
    r"""Replace the characters that the stream can't encode with escapes such as ``\u6f22``."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
