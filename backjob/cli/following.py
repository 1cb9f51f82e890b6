"""Following one job to its end, on a terminal or in a pipe: its output, and how far it is."""

from __future__ import annotations

import os
from enum import Enum
from types import TracebackType
from typing import Final, Protocol, Self, TextIO

from backjob.cli.bar import Bar, plain
from backjob.cli.console import TRUNCATED, harmless, last_line, repeats
from backjob.jobs import BackJob
from backjob.model import JobState, Status
from backjob.protocols import Clock

__all__ = ["EXIT_CODES", "INTERRUPTED", "NO_SUCH_JOB", "follow", "watch"]

EXIT_CODES: Final = {Status.COMPLETED: 0, Status.FAILED: 1, Status.CANCELLED: 2}
"""What a command that waits for a job's end exits with."""

NO_SUCH_JOB: Final = 3
"""What it exits with if there is none."""

INTERRUPTED: Final = 130
"""What it exits with if Ctrl-C ends it before."""

_HEAD: Final = 1 << 16
_LONGEST_END: Final = 2000
_DUMB: Final = ("dumb", "unknown")


def follow(jobs: BackJob, job_id: str, stream: TextIO, *, clock: Clock | None = None) -> int:
    """Print a job's progress and output until its end: on a terminal a bar that is drawn again, elsewhere plain lines.

    Returns the exit code that tells the end (`EXIT_CODES`). Raises `JobNotFound`, and what writing to ``stream`` raises.
    """
    return _Following(jobs, job_id, stream, clock).run()


def watch(jobs: BackJob, job_id: str, stream: TextIO, keyboard: TextIO | None, *, clock: Clock | None = None) -> int:
    """`follow`, but Ctrl-C asks whether to leave the job running, to cancel it, or to go on watching.

    Returns `INTERRUPTED` to whoever leaves: by that choice, by a second Ctrl-C, or at the first one where ``stream`` and
    ``keyboard`` are not both terminals to ask at.
    """
    following = _Following(jobs, job_id, stream, clock)
    while True:
        try:
            return following.run()
        except KeyboardInterrupt:
            choice = _asked(stream, keyboard) if stream.isatty() and keyboard and keyboard.isatty() else _Choice.LEAVE
        if choice is _Choice.LEAVE:
            return INTERRUPTED
        if choice is _Choice.CANCEL:
            jobs.cancel(job_id)


# --- the choice at Ctrl-C -------------------------------------------------------------------------------------------


class _Choice(Enum):
    LEAVE = "leave"
    CANCEL = "cancel"
    WATCH = "watch"


_LETTERS: Final = {"": _Choice.LEAVE, "l": _Choice.LEAVE, "c": _Choice.CANCEL, "w": _Choice.WATCH}


def _asked(stream: TextIO, keyboard: TextIO) -> _Choice:
    try:
        while True:
            stream.write("[l]eave it running, [c]ancel it, or go on [w]atching? [l] ")
            stream.flush()
            answer = keyboard.readline()
            if not answer:
                stream.write("\n")
            letter = answer.strip().lower()[:1]
            if letter in _LETTERS:
                return _LETTERS[letter]
    except KeyboardInterrupt:
        stream.write("\n")
        return _Choice.LEAVE


# --- the loop -------------------------------------------------------------------------------------------------------


class _Display(Protocol):
    """Where output and progress are shown, while its block lasts."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def output(self, text: str) -> None:
        """Show whole lines."""
        ...

    def state(self, state: JobState, text: str) -> None:
        """Show where the job stands, and what it says in one line."""
        ...


class _Following:
    """How far a job's output has been shown. `run` may be called again after it was interrupted."""

    def __init__(self, jobs: BackJob, job_id: str, stream: TextIO, clock: Clock | None) -> None:
        self._jobs = jobs
        self._job_id = job_id
        self._stream = stream
        self._terminal = stream.isatty()
        self._clock = clock
        # What stands at the end of the output without a line break, and what stands at its beginning.
        self._offset, self._begun, self._head = 0, "", ""

    def run(self) -> int:
        """Show the job until its end; the exit code."""
        status, truncated = Status.STARTED, False
        with self._display() as display:
            for state in self._jobs.watch(self._job_id):
                truncated = self._show_output(display, ended=state.status.is_final)
                status = state.status
                text = "" if repeats(state.status_text, self._head) else state.status_text
                display.state(state, last_line(text, _LONGEST_END) if status.is_final else last_line(text))
            if truncated:
                display.output(TRUNCATED + "\n")
        return EXIT_CODES[status]

    def _show_output(self, display: _Display, *, ended: bool) -> bool:
        """Show what is new; a line that has only begun waits for its end. Returns whether there was more than is kept."""
        while (piece := self._jobs.output(self._job_id, self._offset)).text:
            lines, newline, begun = (self._begun + piece.text).rpartition("\n")
            if newline:
                display.output(self._shown(lines + newline))
            # Only now: what an interrupt tears apart is shown again, and not lost.
            self._offset, self._begun, self._head = piece.next_offset, begun, (self._head + piece.text)[:_HEAD]
        if ended and self._begun:
            display.output(self._shown(self._begun + "\n"))
            self._begun = ""
        return piece.truncated

    def _shown(self, output: str) -> str:
        """A file gets the output as it is; a terminal is not commanded by it."""
        return harmless(output) if self._terminal else output

    def _display(self) -> _Display:
        if not self._terminal or os.environ.get("TERM") in _DUMB:
            return _Lines(self._stream)
        try:
            from backjob.cli.rich_bar import rich as drawing  # noqa: PLC0415 - it needs an extra, and takes its time
        except ImportError:
            drawing = plain
        return Bar(self._stream, drawing(self._stream), self._clock)


class _Lines:
    """Plain lines, each state that is new among them, for a file, a pipe, or a terminal that can do no more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def output(self, text: str) -> None:
        self._write(text)

    def state(self, state: JobState, text: str) -> None:
        line = f"{state.status.name:<11} {state.progress:3d} %  {text}".rstrip()
        if line != self._shown:
            self._write(line + "\n")
            self._shown = line

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
