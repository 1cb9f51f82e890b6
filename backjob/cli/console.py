"""Format a job as text with all its details, and run the monitor in the foreground.

Text from a job may contain control characters. Escape them for a terminal, so that they have no effect there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from types import FrameType
from typing import Final, TextIO

from attrs import evolve

from backjob.errors import AddressUnknown
from backjob.jobs import BackJob, engine_of
from backjob.model import DEFAULT_QUEUE, JsonValue, Output, Status
from backjob.output import ansi_of, escaped, from_line, lines_of, plain_end, text_of
from backjob.status.languages import ENGLISH, Language
from backjob.status.times import clock_text, run_seconds
from backjob.status.words import WAITING, run_line, text_of_state, word_of

TRUNCATED: Final = "(the output exceeded the limit; a part is missing here)"
"""The line between the beginning and the tail of an output."""

_LOOK: Final = 1.0  # s
_LONGEST_TEXT: Final = 100
_LONGEST_RUN: Final = 600
_TAIL: Final = 1 << 16  # bytes of output that a job without a text shows as its text


def last_line(text: str, longest: int = _LONGEST_TEXT) -> str:
    """Return the last line of a text, escaped, and cut off if it has more than ``longest`` characters."""
    line = escaped(text.strip().rpartition("\n")[2]).replace("\t", " ")
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _time(time: datetime | None) -> str:
    return "" if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def whole_output(jobs: BackJob, job_id: str) -> Output:
    """Return the stored output of a job, all of it, with its tail. Raises `JobNotFound`."""
    chunks: list[str] = []
    offset = 0
    while (chunk := jobs.output(job_id, offset)).text:
        chunks.append(chunk.text)
        offset = chunk.next_offset
    return evolve(chunk, text="".join(chunks))


def has_colours(stream: TextIO) -> bool:
    """Return whether to write colours: to a terminal that has some, unless ``NO_COLOR`` is set (https://no-color.org)."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def shown_output(text: str, *, terminal: bool, colours: bool = False) -> str:
    """Return output as it is printed: without control characters on a terminal, and there with colours if wanted."""
    lines = lines_of(text)
    return ansi_of(lines, colours=colours) if terminal else "\n".join(map(text_of, lines))


def job_details(
    jobs: BackJob, job_id: str, *, escape: bool = True, colours: bool = False, language: Language = ENGLISH
) -> str:
    """Return a job's state over several lines, and its output below them, as a terminal would show it.

    ``escape`` makes everything safe for a terminal (see `escaped`), and ``colours`` shows the output's. Raises `JobNotFound`.
    """
    state = jobs.status(job_id)
    output = whole_output(jobs, job_id)
    text = "" if is_output(state.status_text, output.tail or output.text) else text_of_state(state, language)
    seconds = run_seconds(state, engine_of(jobs).clock.now())
    rows = {
        "id": state.id,
        "title": last_line(state.title),
        "route": last_line(f"{state.method} {state.path}"),
        "state": word_of(state.status, state.attempt, language),
        "progress": f"{state.progress} %",
        "text": "\n          ".join(escaped(text).strip().splitlines()),
        "waits": language.sentence(WAITING.get(state.waiting_for or "", state.waiting_for or "")),
        "attempt": f"{state.attempt} of {state.retries + 1}" if state.retries or state.attempt > 1 else "",
        "queue": "" if state.queue == DEFAULT_QUEUE else last_line(state.queue),
        "scope": last_line(state.scope),
        "owner": last_line(state.owner or ""),
        "created": _time(state.created_time),
        "due": "" if state.status is not Status.STARTED else _time(state.start_time),
        "began": _time(state.claimed_time),
        "updated": "" if state.status.is_final else _time(state.updated_time),
        "ended": _time(state.end_time),
        "duration": "" if seconds is None else clock_text(seconds),
        "file": "" if state.file is None else _file(state.file),
        "result": "" if state.result is None else json.dumps(state.result),
    }
    lines = [f"{name:<9} {value}" for name, value in rows.items() if value]
    if state.history:
        lines += [
            "",
            f"{language.say('history')}:",
            *(last_line(run_line(entry, language), _LONGEST_RUN) for entry in state.history),
        ]
    if output.text:
        lines += ["", shown_output(output.text, terminal=escape, colours=colours).removesuffix("\n")]
    if output.truncated:
        tail = shown_output(from_line(output.tail), terminal=escape, colours=colours)
        lines += [TRUNCATED, *([tail.removesuffix("\n")] if tail else [])]
    return "\n".join(lines)


def _file(file: Mapping[str, JsonValue]) -> str:
    return last_line(f"{file.get('name') or ''} ({file.get('type') or 'unknown type'}, {file.get('size') or 0} bytes)")


def is_output(status_text: str, output: str) -> bool:
    """Whether a status text only repeats the output (its last 64 KiB at the time), because the job has set no text."""
    if output.startswith(status_text) or len(status_text.encode("utf-8", "replace")) > _TAIL - 4:
        return True
    return plain_end(output).endswith(status_text)


# --- the monitor ----------------------------------------------------------------------------------------------------


def run_monitor(jobs: BackJob, *, stop: threading.Event | None = None) -> None:
    """Run the monitor in the foreground until Ctrl-C or SIGTERM (or ``stop``), then close ``jobs``.

    Raises `AddressUnknown` without a base URL, because this process has no server from which to learn it, and
    `StoreError` if the store can't be read at the start.
    """
    if jobs.transport is None:
        raise AddressUnknown("a separate monitor needs the application's address; set BASE_URL (BACKJOB_BASE_URL)")
    jobs.find(limit=1)
    try:
        with suppress(KeyboardInterrupt), _sigterm_as_interrupt() as signals:
            engine_of(jobs).monitor.ensure_running()
            sys.stderr.write("backjob monitor: running; press Ctrl-C to stop\n")
            sys.stderr.flush()
            stop = threading.Event() if stop is None else stop
            # An exception that a signal raises in a destructor, for example, is lost.
            while not (signals or stop.wait(_LOOK)):
                pass
        sys.stderr.write("backjob monitor: stopping\n")
    finally:
        jobs.close()


@contextmanager
def _sigterm_as_interrupt() -> Iterator[list[int]]:
    """Raise KeyboardInterrupt on SIGTERM, and yield the list to which the handler adds the signal.

    A handler that set the event instead could deadlock with the waiting thread.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may install signal handlers
        return

    def interrupt(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)
