"""Jobs on a terminal: a line, the details, and a monitor in the foreground. For any command line.

What a job says is text, never terminal control: control characters are shown, not obeyed.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import Final

from backjob.errors import AddressUnknown
from backjob.jobs import BackJob
from backjob.model import JobState

__all__ = ["TRUNCATED", "harmless", "job_details", "job_line", "last_line", "repeats", "run_monitor", "whole_output"]

TRUNCATED: Final = "(the output was longer than is kept; the rest is missing)"
"""What is said below such an output."""

_LONGEST_TEXT: Final = 100
_PIECE: Final = 1 << 16

# C0 but for tab and newline, DEL and C1 command a terminal; the others turn or hide what stands around them.
_CONTROL: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def harmless(text: str) -> str:
    r"""The text with control characters spelled out (``\x1b``), but for newlines and tabs; CR LF counts as a newline."""
    return _CONTROL.sub(_spelled, text.replace("\r\n", "\n"))


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def last_line(text: str, longest: int = _LONGEST_TEXT) -> str:
    """The last line of a text, harmless; of one longer than so many characters the beginning."""
    line = harmless(text.strip().rpartition("\n")[2]).replace("\t", " ")
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _time(time: datetime | None) -> str:
    return "" if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def job_line(state: JobState) -> str:
    """A job in one line without a line break: id, status, progress, due time (UTC), scope, owner, and what it says."""
    parts = (
        f"{state.id:<24}",
        f"{state.status.name:<11}",
        f"{state.progress:3d} %",
        _time(state.start_time),
        last_line(state.scope) or "-",
        last_line(state.owner or "") or "-",
        last_line(state.status_text),
    )
    return "  ".join(parts).rstrip()


def whole_output(jobs: BackJob, job_id: str) -> tuple[str, bool]:
    """All of a job's output that is kept, and whether there was more. Raises `JobNotFound`."""
    pieces: list[str] = []
    offset = 0
    while (piece := jobs.output(job_id, offset)).text:
        pieces.append(piece.text)
        offset = piece.next_offset
    return "".join(pieces), piece.truncated


def job_details(jobs: BackJob, job_id: str, *, escape: bool = True) -> str:
    """Everything a watcher may know of a job, over several lines, and its output below them.

    With ``escape`` the output is fit for a terminal (see `harmless`), without it is as the job wrote it. Raises
    `JobNotFound`.
    """
    state = jobs.status(job_id)
    output, truncated = whole_output(jobs, job_id)
    text = "" if repeats(state.status_text, output) else state.status_text
    rows = {
        "id": state.id,
        "status": state.status.name,
        "progress": f"{state.progress} %",
        "text": "\n          ".join(harmless(text).strip().splitlines()),
        "scope": last_line(state.scope),
        "owner": last_line(state.owner or ""),
        "due": _time(state.start_time),
        "updated": _time(state.updated_time),
        "ended": _time(state.end_time),
        "result": "" if state.result is None else json.dumps(state.result),
    }
    lines = [f"{name:<9} {value}" for name, value in rows.items() if value]
    if output:
        lines += ["", (harmless(output) if escape else output).removesuffix("\n")]
    if truncated:
        lines.append(TRUNCATED)
    return "\n".join(lines)


def repeats(status_text: str, output: str) -> bool:
    """Whether a status text is only what stands for one where the job set none: the last 64 KiB of its output so far."""
    return output.startswith(status_text) or len(status_text.encode("utf-8", "replace")) > _PIECE - 4


# --- a monitor ------------------------------------------------------------------------------------------------------


def run_monitor(jobs: BackJob, *, stop: threading.Event | None = None) -> None:
    """Deliver, watch and clean up in the foreground, until Ctrl-C or SIGTERM (or ``stop``); then close ``jobs``.

    Raises `AddressUnknown` where the transport has no address: no server is in this process from which to learn it; and
    `StoreError` if the store can't be read to begin with.
    """
    if jobs.transport is None:
        raise AddressUnknown("a monitor of its own can't learn where the application listens: set the base URL")
    jobs.find(limit=1)
    try:
        with _sigterm_as_interrupt():
            jobs.monitor.ensure_running()
            sys.stderr.write("backjob monitor: running; Ctrl-C ends it\n")
            sys.stderr.flush()
            (threading.Event() if stop is None else stop).wait()
    except KeyboardInterrupt:
        sys.stderr.write("backjob monitor: ending\n")
    finally:
        jobs.close()


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM as Ctrl-C: an exception, as setting an event within a handler could deadlock with the one who waits."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets signals, and may say what they do
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
