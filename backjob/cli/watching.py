"""Print a job's output and progress until it ends, on a terminal or into a pipe."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self, TextIO

from backjob.cli.bar import Bar
from backjob.cli.console import TRUNCATED, has_colours, is_output, last_line
from backjob.cli.exits import OF_STATUS
from backjob.cli.speaking import language_for
from backjob.jobs import BackJob
from backjob.model import JobState, Status
from backjob.output import DEFAULT, Line, Screen, ansi_of, from_line, lines_of, text_of
from backjob.output.screen import REACH
from backjob.protocols import Clock
from backjob.status.words import text_of_state, with_notes

_KEPT: Final = 1 << 16
_LONGEST_END: Final = 2000
_NO_CURSOR: Final = ("dumb", "unknown")


def watch(jobs: BackJob, job_id: str, stream: TextIO, *, clock: Clock | None = None) -> int:
    """Print a job's output and progress until it ends; return its exit code (`OF_STATUS`).

    A terminal gets a progress bar, any other stream plain lines. Raises `JobNotFound`; errors from writing to
    ``stream`` propagate.
    """
    output = _OutputReader(jobs, job_id)
    terminal, colours, language = stream.isatty(), has_colours(stream), language_for(stream)
    status = Status.STARTED
    with _display(stream, clock) as display:
        for state in jobs.watch(job_id):
            status = state.status
            for lines in output.new_lines(ended=status.is_final):
                display.output(f"{_printed(lines, terminal=terminal, colours=colours)}\n")
            text = text_of_state(state, language)
            if output.is_repeated_by(state.status_text):
                text = "" if status.is_final or not terminal else output.unfinished
            line = last_line(text, _LONGEST_END) if status.is_final else last_line(text)
            display.state(state, with_notes(line, state, language))
    return OF_STATUS[status]


def _printed(lines: list[Line], *, terminal: bool, colours: bool) -> str:
    return ansi_of(lines, colours=colours) if terminal else "\n".join(map(text_of, lines))


class _OutputReader:
    """Reads a job's output, and yields each line once it is complete.

    While output moves the cursor up, as several progress bars do, lines are kept back until they are out of its reach.
    """

    def __init__(self, jobs: BackJob, job_id: str) -> None:
        self._jobs = jobs
        self._job_id = job_id
        self._offset = 0
        self._screen = Screen()
        self._printed = 0
        self._head = self._recent = ""

    def is_repeated_by(self, text: str) -> bool:
        """Return whether a status text only repeats the output, because the job has set none."""
        return is_output(text, self._head) or is_output(text, self._recent)

    @property
    def unfinished(self) -> str:
        """The line that is not complete, such as a progress bar."""
        return text_of(self._screen.lines(self._screen.row, self._screen.row + 1)[0])

    def new_lines(self, *, ended: bool) -> Iterator[list[Line]]:
        """Yield the lines that were completed since the last call, and once the job has ended all others and the tail."""
        while (chunk := self._jobs.output(self._job_id, self._offset)).text:
            self._offset = chunk.next_offset
            self._head = (self._head + chunk.text)[:_KEPT]
            self._recent = (self._recent + chunk.text)[-_KEPT:]
            self._screen.feed(chunk.text)
            yield from self._complete(self._screen.climbed_to)
        if ended:
            rest = self._screen.lines(self._printed)
            yield from _not_empty(rest if rest[-1:] != [[]] else rest[:-1])
            self._printed = self._screen.count
            if chunk.truncated:
                yield [[(TRUNCATED, DEFAULT)]]
                tail = lines_of(from_line(chunk.tail))
                yield from _not_empty(tail if tail[-1] else tail[:-1])

    def _complete(self, climbed_to: int | None) -> Iterator[list[Line]]:
        end = self._screen.count - 1
        if climbed_to is not None:
            end = max(climbed_to, self._screen.count - REACH)
            self._printed = min(self._printed, end)
        yield from _not_empty(self._screen.lines(self._printed, max(self._printed, end)))
        self._printed = max(self._printed, end) - len(self._screen.take_settled())


def _not_empty(lines: list[Line]) -> Iterator[list[Line]]:
    if lines:
        yield lines


def _display(stream: TextIO, clock: Clock | None) -> Bar | _Lines:
    draws = stream.isatty() and os.environ.get("TERM") not in _NO_CURSOR
    return Bar(stream, clock) if draws else _Lines(stream)


class _Lines:
    """Prints output and new states as plain lines: for files, pipes, and terminals that can't move the cursor."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def output(self, text: str) -> None:
        """Print whole lines."""
        self._stream.write(text)
        self._stream.flush()

    def state(self, state: JobState, text: str) -> None:
        """Print a job's state and one line of text, unless it would repeat the last such line."""
        line = f"{state.status.name:<11} {state.progress:3d} %  {text}".rstrip()
        if line != self._last:
            self.output(line + "\n")
            self._last = line
