"""Print a job's output and progress until it ends, on a terminal or into a pipe."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self, TextIO

from backjob.cli.bar import Bar
from backjob.cli.console import TRUNCATED, escaped, is_output, last_line
from backjob.cli.exits import OF_STATUS
from backjob.cli.speaking import language_for
from backjob.jobs import BackJob
from backjob.model import JobState, Status
from backjob.protocols import Clock
from backjob.status.words import text_of_state, with_notes

_HEAD: Final = 1 << 16
_LONGEST_END: Final = 2000
_NO_CURSOR: Final = ("dumb", "unknown")


def watch(jobs: BackJob, job_id: str, stream: TextIO, *, clock: Clock | None = None) -> int:
    """Print a job's output and progress until it ends; return its exit code (`OF_STATUS`).

    A terminal gets a progress bar, any other stream plain lines. Raises `JobNotFound`; errors from writing to
    ``stream`` propagate.
    """
    output = _OutputReader(jobs, job_id)
    terminal, language = stream.isatty(), language_for(stream)
    status = Status.STARTED
    with _display(stream, clock) as display:
        for state in jobs.watch(job_id):
            status = state.status
            for lines in output.new_lines(ended=status.is_final):
                display.output(escaped(lines) if terminal else lines)
            text = "" if is_output(state.status_text, output.head) else text_of_state(state, language)
            line = last_line(text, _LONGEST_END) if status.is_final else last_line(text)
            display.state(state, with_notes(line, state, language))
        if output.truncated:
            display.output(TRUNCATED + "\n")
    return OF_STATUS[status]


class _OutputReader:
    """Reads a job's output once, in whole lines."""

    def __init__(self, jobs: BackJob, job_id: str) -> None:
        self.head = ""
        """The beginning of the output."""
        self.truncated = False
        self._jobs = jobs
        self._job_id = job_id
        self._offset = 0
        self._unfinished = ""

    def new_lines(self, *, ended: bool) -> Iterator[str]:
        """Yield the lines written since the last call. An unfinished line comes once it is complete or the job has ended."""
        while (chunk := self._jobs.output(self._job_id, self._offset)).text:
            self._offset = chunk.next_offset
            self.head = (self.head + chunk.text)[:_HEAD]
            lines, newline, self._unfinished = (self._unfinished + chunk.text).rpartition("\n")
            if newline:
                yield lines + newline
        self.truncated = chunk.truncated
        if ended and self._unfinished:
            yield self._unfinished + "\n"
            self._unfinished = ""


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
