"""A claimed job as its action sees it: what it reports, coalesced to few writes, and how it wants to end.

Any thread may report. `_pending` guards what is not written yet; `_writing` lets one thread at a time write, so output
keeps its order. Plain progress takes neither lock: a loop may call it a million times.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from backjob.errors import InvalidRequest, JobEnded, StoreUnavailable
from backjob.lifecycle import End, ended
from backjob.model import Expect, Job, Report, Status, clean_text, short_text
from backjob.protocols import Clock, Store
from backjob.worker.capture import capture_stdout
from backjob.worker.offload import in_event_loop

__all__ = ["Running", "current", "percent"]

_WRITE_INTERVAL: Final = 0.1
_RETRY_INTERVAL: Final = 1.0
_PENDING_LIMIT: Final = 1 << 16

_log = logging.getLogger("backjob")

current: ContextVar[Running | None] = ContextVar("backjob_running", default=None)


def percent(progress: float, total: float | None = None) -> int:
    """Progress as an integer from 0 to 100, rounded half up. Raises `InvalidRequest` for what is no number."""
    if total == 0:
        return 100
    try:
        value = _number(progress if total is None else 100 * progress / total)
    except TypeError:
        raise InvalidRequest("progress", f"a number is needed, not {progress!r} of {total!r}") from None
    except OverflowError:  # integers beyond what a float holds
        value = math.inf if (progress > 0) == (total is None or total > 0) else -math.inf
    return int(min(100.0, max(0.0, value)) + 0.5)


def _number(value: float) -> float:
    try:
        number = float(value)
    except ValueError:
        raise InvalidRequest("progress", f"a number is needed, not {value!r}") from None
    if math.isnan(number):
        raise InvalidRequest("progress", "NaN is no progress")
    return number


class Running:
    """One job between its claim and its end, in the process that claimed it.

    ``dirty`` is called when something stays unwritten, so that the monitor writes it; ``owner`` is the `BackJob` it is of.
    """

    def __init__(
        self,
        job: Job,
        token: str,
        *,
        store: Store,
        clock: Clock,
        max_output: int,
        dirty: Callable[[Running], None],
        owner: object = None,
    ) -> None:
        self.job = job
        self.token = token
        self.owner = owner
        self.finish: End | None = None
        self.error: str | None = None
        self._store = store
        self._monotonic = clock.monotonic
        self._dirty = dirty
        self._max_output = max_output
        # Reentrant: a signal handler, or a finaliser, may print in the middle of it.
        self._pending = threading.RLock()
        self._writing = threading.Lock()
        self._progress = job.progress
        self._raised = float(job.progress)
        self._written_progress = job.progress
        self._text: str | None = None
        self._output: list[str] = []
        self._output_pending = 0
        self._output_size = 0
        self._output_stored = job.output_size
        self._truncated = False
        self._truncation_written = False
        self._next_write = -math.inf
        self._store_is_away = False
        self._report_in_doubt = False
        self._end_in_doubt = False
        self._is_dirty = False
        self.ended = False

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within it this is the current job, and ``print`` goes to its output."""
        capture_stdout(_write_to_current)
        token = current.set(self)
        try:
            yield
        finally:
            current.reset(token)

    # --- what the action says ---------------------------------------------------------------------------------------

    def note_progress(self, progress: int) -> bool:
        """Set the progress, 0–100, without blocking. True if `write_now` is due, else it is written a little later."""
        if self.ended:
            raise JobEnded(self.job.id)
        # In this order: `_take` clears the flag before it reads the progress, so no value is ever left behind.
        self._progress = progress
        return not self._is_dirty and self._is_due()

    def note_life(self) -> bool:
        """Say that there is news, the progress as it stands. True if `write_now` is due."""
        if self.ended:
            raise JobEnded(self.job.id)
        return not self._is_dirty and self._is_due()

    def set_progress(self, progress: int) -> None:
        """Set the progress, 0–100. Raises `JobEnded` if the job has."""
        if self.note_progress(progress):
            self.write_now()

    def sign_of_life(self) -> None:
        """Say that the action is alive, and nothing else. Raises `JobEnded` if the job has."""
        if self.note_life():
            self.write_now()

    @property
    def progress(self) -> int:
        """Where the progress stands, written or not."""
        return self._progress

    def raise_progress(self, amount: float) -> None:
        """Raise the progress by an amount, without writing. Amounts below 1 add up."""
        percent(amount)  # refuses what is no number
        with self._pending:
            stood = self._raised if percent(self._raised) == self._progress else self._progress
            self._raised = min(100.0, max(0.0, stood + float(max(-100, min(100, amount)))))
            self._progress = percent(self._raised)

    def set_text(self, text: str, progress: int | None = None) -> None:
        """Set the explicit status text, and the progress if given. Written at once."""
        with self._pending:
            self._text = short_text(text)
            if progress is not None:
                self._progress = progress
        self.write_now()

    def echo(self, text: str) -> None:
        """Append to the output; what passes the limit is dropped, and the output marked as truncated."""
        self.write(text)
        if self.ended:
            raise JobEnded(self.job.id)

    def write(self, text: str) -> None:
        """`echo` that stays silent when the job has ended: ``print`` must not raise."""
        if not text or self.ended:
            return
        with self._pending:
            fitting = self._fit(clean_text(text))
            if fitting:
                self._output.append(fitting)
            full = self._output_pending >= _PENDING_LIMIT and not self._store_is_away
        # Output that was dropped, past the limit, is a sign of life all the same.
        if (full or (not self._is_dirty and self._is_due())) and not self.flush():
            self._mark_dirty()

    def _fit(self, text: str) -> str:
        if self._truncated:
            return ""
        data = text.encode()
        room = self._max_output - self._output_size
        if len(data) > room:
            self._truncated = True
            text = data[:room].decode("utf-8", "ignore")
            data = text.encode()
        self._output_size += len(data)
        self._output_pending += len(data)
        return text

    # --- writing ----------------------------------------------------------------------------------------------------

    @property
    def next_write(self) -> float:
        """When the next coalesced write is due, on the monotonic clock (s)."""
        return self._next_write

    def write_now(self) -> None:
        """Write what is pending, in this thread. Raises `JobEnded` if the store says that the job has ended."""
        if not self.flush():
            self._mark_dirty()
        if self.ended:
            raise JobEnded(self.job.id)

    def flush(self) -> bool:
        """Write what is pending. False if nothing was, so that a sign of life is all there is to give.

        A store that is not available for now loses nothing: all stays pending, and the monitor tries again. Within an
        event loop nothing is written here either: the monitor does it at once, and nobody waits for the store.
        """
        if in_event_loop():
            self._next_write = self._monotonic()
            self._mark_dirty()
            return True
        level = logging.DEBUG if self._store_is_away else logging.INFO
        try:
            return self._write()
        except StoreUnavailable as error:
            self._mark_dirty()
            _log.log(level, "job %s: its progress will be written later: %s", self.job.id, error)
            return True

    def _write(self) -> bool:
        # What the store prints, or a log handler, is no output of the action: it would wait for this very lock.
        outer = current.set(None)
        try:
            with self._writing:
                self._next_write = self._monotonic() + _WRITE_INTERVAL
                try:
                    return self._send()
                except StoreUnavailable:
                    self._store_is_away = True
                    self._next_write = self._monotonic() + _RETRY_INTERVAL
                    raise
        finally:
            current.reset(outer)

    def _send(self) -> bool:
        if self._report_in_doubt and not self.ended:
            self._leave_out_what_is_stored()
        report = None if self.ended else self._take()
        if report is None:
            return self.ended
        try:
            stands = self._store.report(self.job.id, self.token, report)
        except StoreUnavailable:
            self._put_back(report)
            self._report_in_doubt = True
            raise
        self._store_is_away = False
        self._output_stored += len(report.output.encode())
        if not stands:
            self.ended = True
        return True

    def _leave_out_what_is_stored(self) -> None:
        """Resolve a report whose answer was lost: if the store has its output, that must not be appended again.

        Nobody else appends under this token, so what has grown since the last answer is that report, whole.
        """
        job = self._store.get(self.job.id)
        if job is None or job.status is not Status.IN_PROGRESS or job.token != self.token:
            self.ended = True
            return
        with self._pending:
            pending, self._output = self._output, []
            output = "".join(pending).encode()
            rest = output[max(0, job.output_size - self._output_stored) :]
            if rest:
                self._output.insert(0, rest.decode("utf-8", "ignore"))
            self._output_pending -= len(output) - len(rest)
        self._output_stored = job.output_size
        self._report_in_doubt = False

    def end(self, end: End) -> Job | None:
        """Write what is pending, then the end. The ended job, or None if it had been ended by somebody else.

        Raises `StoreUnavailable`; calling it again with the same end is right then.
        """
        if self._end_in_doubt:
            job = self._store.get(self.job.id)
            if job is None or job.status.is_final:
                self.ended = True
                return job if job is not None and self._is_by_us(job, end) else None
        self._write()
        if self.ended:
            return None
        expect = Expect(status=Status.IN_PROGRESS, token=self.token)
        try:
            job = self._store.change(self.job.id, expect, ended(end))
        except StoreUnavailable:
            self._end_in_doubt = True
            raise
        self.ended = True
        return job

    def _is_by_us(self, job: Job, end: End) -> bool:
        """Whether an ended job is as this end leaves it: the store wrote it, and the answer was lost."""
        text = None if end.text is None else short_text(end.text)
        return job.token == self.token and job.status is end.status and text in (None, job.status_text)

    def _is_due(self) -> bool:
        """Whether to write now; else the monitor will, when the interval is over."""
        now = self._monotonic()
        if now >= self._next_write:
            self._next_write = now + _WRITE_INTERVAL  # of several threads one goes
            return True
        self._mark_dirty()
        return False

    def _mark_dirty(self) -> None:
        self._is_dirty = True
        self._dirty(self)

    def _take(self) -> Report | None:
        with self._pending:
            self._is_dirty = False
            progress = self._progress
            truncated = self._truncated and not self._truncation_written
            if progress == self._written_progress and self._text is None and not self._output and not truncated:
                return None
            report = Report(
                progress=None if progress == self._written_progress else progress,
                text=self._text,
                output="".join(self._output),
                truncated=truncated,
            )
            self._written_progress = progress
            self._truncation_written = self._truncated
            self._text = None
            self._output.clear()
            self._output_pending = 0
            return report

    def _put_back(self, report: Report) -> None:
        with self._pending:
            self._written_progress = -1
            self._text = report.text if self._text is None else self._text
            if report.output:
                self._output.insert(0, report.output)
                self._output_pending += len(report.output.encode())
            if report.truncated:
                self._truncation_written = False


def _write_to_current(text: str) -> bool:
    running = current.get()
    if running is None:
        return False
    running.write(text)
    return True
