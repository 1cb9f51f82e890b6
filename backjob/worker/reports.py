"""The reports of an action, coalesced into few writes.

Any thread may report. `Unwritten` keeps what is not written yet; `_writing` lets one thread at a time write, so that output
keeps its order. Plain progress takes no lock: a loop may report it a million times.
"""

from __future__ import annotations

import codecs
import logging
import math
import os
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from backjob.endings import write_report
from backjob.errors import JobEnded, StoreError, StoreUnavailable
from backjob.model import UNSET, Job, JsonValue, Report, Status
from backjob.process import in_event_loop
from backjob.protocols import Clock, Store
from backjob.worker.stamps import Stamps
from backjob.worker.unwritten import Unwritten

_WRITE_INTERVAL: Final = 0.1  # s
_RETRY_INTERVAL: Final = 1.0  # s
_TAIL_INTERVAL: Final = 1.0  # s; each write of the tail replaces up to 64 KiB

is_muted: Final[ContextVar[bool]] = ContextVar("backjob_muted", default=False)
"""Whether nothing that this thread writes or logs becomes output."""

_log = logging.getLogger("backjob")


class Reports:
    """The reports of one run of a job: base class of `backjob.worker.running.Running`.

    It calls ``dirty`` when something stays unwritten, so that the monitor writes it. ``renewal`` is how often the run's lease
    is renewed (s), and with it signs of life are written. ``stamps`` writes times into the output. ``waits_to_end``: the action
    has returned, but the store does not take the end yet. ``is_refused``: the store has refused a report as it was. ``ended``:
    this run is over, or another process has ended it; its action may be running still.
    """

    def __init__(
        self,
        job: Job,
        token: str,
        *,
        store: Store,
        clock: Clock,
        max_output: int,
        dirty: Callable[[Any], None],
        renewal: float,
        stamps: Stamps | None = None,
    ) -> None:
        self.job = job
        self.token = token
        self._process = os.getpid()
        self.ended = False
        self.waits_to_end = False
        self.is_refused = False
        self._store = store
        self._monotonic = clock.monotonic
        self._dirty = dirty
        self._writing = threading.Lock()
        self._unwritten = Unwritten(job, max_output)
        self._stamps = stamps
        self._output_stored = job.output_size
        self._next_write = self._next_tail = -math.inf
        self._store_is_unavailable = False
        self._report_in_doubt = False
        self._is_dirty = self._is_listed = False
        self._has_lived = False
        self._reports_life = 0 < job.error_timeout < 2 * renewal
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}

    @property
    def is_inherited(self) -> bool:
        """Whether this is a forked child of the process that runs the job, and has no part in it."""
        return self._process != os.getpid()

    # --- reports of the action --------------------------------------------------------------------------------------

    def note_progress(self, progress: int) -> bool:
        """Set the progress, 0–100, without blocking. Returns whether to call `write_now`; if not, the monitor writes it.

        Raises `JobEnded`.
        """
        if self.ended:
            raise JobEnded(self.job.id)
        # In this order: `_send` clears the flag before it reads the progress, so it misses no value.
        self._unwritten.progress = progress
        return not self._is_dirty and self._is_due()

    def note_life(self) -> bool:
        """Report that the action is alive, without blocking. Returns whether to call `write_now`. Raises `JobEnded`."""
        if self.ended:
            raise JobEnded(self.job.id)
        return not self._is_dirty and self._is_due()

    def note_text(self, text: str, progress: int | None = None) -> bool:
        """Set the status text, and the progress if given, without blocking. Returns whether to call `write_now`.

        Raises `JobEnded`.
        """
        if self.ended:
            raise JobEnded(self.job.id)
        self._unwritten.set_text(text, progress)
        return not self._is_dirty and self._is_due()

    def set_progress(self, progress: int) -> None:
        """Set the progress, 0–100. Raises `JobEnded`."""
        if self.note_progress(progress):
            self.write_now()

    def sign_of_life(self) -> None:
        """Report that the action is alive. Raises `JobEnded`."""
        if self.note_life():
            self.write_now()

    @property
    def progress(self) -> int:
        """The progress, whether written or not."""
        return self._unwritten.progress

    def raise_progress(self, amount: float) -> None:
        """Raise the progress by an amount, without writing it. Amounts below 1 add up."""
        self._unwritten.raise_progress(amount)

    def set_text(self, text: str, progress: int | None = None) -> None:
        """Set the status text, and the progress if given. Raises `JobEnded`."""
        if self.note_text(text, progress):
            self.write_now()

    def echo(self, text: str) -> None:
        """Append to the output. Of text past the limit the end is kept, as the tail. Raises `JobEnded`."""
        self.write(text)
        if self.ended:
            raise JobEnded(self.job.id)

    def write(self, text: str) -> None:
        """Append to the output, or do nothing if the job has ended: ``print`` must not raise."""
        if not text or self.ended:
            return
        if self._stamps is not None:
            text = self._stamps.stamped(text)
        is_full = self._unwritten.append(text) and not self._store_is_unavailable
        if is_full or (not self._is_dirty and self._is_due()):
            self.flush()

    def write_bytes(self, data: bytes, stream: int = 0) -> None:
        """Append text in UTF-8 to the output, as `write` does. A character may be split between calls for one stream."""
        decoder = self._decoders.get(stream)
        if decoder is None:
            decoder = self._decoders.setdefault(stream, codecs.getincrementaldecoder("utf-8")("replace"))
        self.write(decoder.decode(data))

    # --- runs -------------------------------------------------------------------------------------------------------

    @property
    def attempt(self) -> int:
        """1 + the failed runs since the cursor last moved."""
        return 1 if self._unwritten.has_moved else self.job.attempt

    @property
    def cursor(self) -> JsonValue:
        """The latest cursor, written or not; None at first."""
        return self._unwritten.cursor

    @property
    def is_saved(self) -> bool:
        """Whether the store has the latest cursor."""
        return self._unwritten.cursor_is_written

    def set_cursor(self, cursor: JsonValue) -> None:
        """Save a cursor with the next report, without blocking. Raises `JobEnded`."""
        if self.ended:
            raise JobEnded(self.job.id)
        if not self._unwritten.set_cursor(cursor):
            self._has_lived = True
        elif not self._is_dirty:
            self._mark_dirty()

    def take_life(self) -> bool:
        """Return whether the action gave signs of life that no report has written, and count them as written.

        An action that has returned is alive until its end is written: it must not time out while the store refuses that.
        """
        has_lived, self._has_lived = self._has_lived, False
        return has_lived or self.waits_to_end

    def note_unwritten_life(self) -> None:
        """Undo `take_life`."""
        self._has_lived = True

    # --- writing ----------------------------------------------------------------------------------------------------

    @property
    def next_write(self) -> float:
        """When the next coalesced write is due, on the monotonic clock (s)."""
        return self._next_write

    def write_now(self) -> None:
        """Write everything that is pending, in this thread. Raises `JobEnded`."""
        self.flush()
        if self.ended:
            raise JobEnded(self.job.id)

    def flush(self) -> None:
        """Write everything that is pending. If nothing is, the next renewal of the lease writes a sign of life.

        If the store is unavailable, everything stays pending and the monitor retries. In an event loop the monitor writes
        it at once instead, because the store may block.
        """
        if in_event_loop():
            self._next_write = self._monotonic()
            self._is_dirty = self._is_listed = True
            self._dirty(self)  # even if the monitor has this run on its list: it is due earlier now
            return
        is_unavailable = self._store_is_unavailable
        try:
            self._write()
        except StoreUnavailable as error:
            self._mark_dirty()
            self._log_delay(error, again=is_unavailable)

    def _write(self, *, is_last: bool = False) -> None:
        if self.is_inherited:  # the parent writes it, and a thread of the parent may have held the lock at the fork
            return
        # Text that the store or a log handler prints is not output of the action: writing it would deadlock on `_writing`.
        token = is_muted.set(True)
        try:
            with self._writing:
                report = self._begin(is_last=is_last)
                if report is None:
                    return
                try:
                    is_written = write_report(self._store, self.job.id, self.token, report, self._note_refusal)
                except StoreUnavailable:
                    self._put_back(report)
                    self._delay()
                    raise
                except StoreError:
                    raise
                except Exception:  # neither the action nor its later reports may fail because of it
                    _log.exception("job %s: a report can't be written, and is dropped", self.job.id)
                    return
                self._note_written(report, is_written=is_written)
        finally:
            is_muted.reset(token)

    def _begin(self, *, is_last: bool = False) -> Report | None:
        """Take what is to be written now, if anything. The caller has `_writing`. Raises `StoreError`."""
        now = self._monotonic()
        self._next_write = now + _WRITE_INTERVAL
        if self._report_in_doubt and not self.ended:
            try:
                self._resolve_doubt()
            except StoreUnavailable:
                self._delay()
                raise
        if self.ended:
            return None
        self._is_dirty = False
        report = self._unwritten.take(with_tail=is_last or now >= self._next_tail)
        if report is not None and report.tail is not UNSET:
            self._next_tail = now + _TAIL_INTERVAL  # it is large
        if self._unwritten.has_tail_to_write:
            self._mark_dirty()  # so that the monitor writes it, even if the action prints nothing more
        if report is None:
            if is_last or not self._reports_life:
                self._has_lived = True
                return None
            report = Report()  # its time limit may be over before the next renewal
        return report

    def _note_written(self, report: Report, *, is_written: bool) -> None:
        self._store_is_unavailable = False
        if report.output:
            self._output_stored += len(report.output.encode())
        if not is_written:
            self.ended = True

    def _put_back(self, report: Report) -> None:
        """Write the report again later, unless it turns out that the store has it."""
        self._unwritten.put_back(report)
        self._report_in_doubt = True

    def _delay(self) -> None:
        """Retry later: the store is unavailable."""
        self._store_is_unavailable = True
        self._next_write = self._monotonic() + _RETRY_INTERVAL

    def _log_delay(self, error: StoreUnavailable, *, again: bool) -> None:
        level = logging.DEBUG if again else logging.INFO
        _log.log(level, "job %s: its progress will be written later: %s", self.job.id, error)

    def _note_refusal(self) -> None:
        self.is_refused = True

    def unlist(self) -> bool:
        """Return whether anything is to be written, when the monitor takes this run off its list of those with unwritten reports."""
        # In this order: a thread that marks the run dirty meanwhile either finds it off the list, or is seen here.
        self._is_listed = False
        return self._is_dirty

    # --- writing the reports of many runs together --------------------------------------------------------------------

    def take_for_batch(self) -> Report | None:
        """Take what is to be written now, and let no other thread write until `end_batch`. None: there is nothing to write.

        It waits for no thread that is writing just now: in this case the monitor tries again after the interval. Raises
        `StoreError`, and nothing is taken, if it can't find out whether an earlier report was written.
        """
        if not self._writing.acquire(blocking=False):
            self._next_write = self._monotonic() + _WRITE_INTERVAL
            self._mark_dirty()
            return None
        report: Report | None = None
        try:
            report = self._begin()
        finally:
            if report is None:
                self._writing.release()
        return report

    def end_batch(self, report: Report, *, is_written: bool | None) -> None:
        """End what `take_for_batch` began: the report is written; or not, since the run is over. None: write it again later."""
        if is_written is None:
            self._put_back(report)
            self._mark_dirty()
        else:
            self._note_written(report, is_written=is_written)
        self._writing.release()

    @property
    def is_in_doubt(self) -> bool:
        """Whether the store may have a report whose answer was lost, so that the next write begins with a read."""
        return self._report_in_doubt

    def postpone(self, error: StoreUnavailable) -> None:
        """Retry after a pause, because the store is unavailable."""
        is_unavailable = self._store_is_unavailable
        self._delay()
        self._mark_dirty()
        self._log_delay(error, again=is_unavailable)

    # --- parts of a write ---------------------------------------------------------------------------------------------

    def _resolve_doubt(self) -> None:
        """Find out whether the store wrote a report whose answer was lost, so as not to append its output again.

        Only this object appends under this token, so the output has grown by that report or not at all.
        """
        job = self._store.get(self.job.id)
        if job is None or job.status is not Status.IN_PROGRESS or job.token != self.token:
            self.ended = True
            return
        self._unwritten.drop_output(job.output_size - self._output_stored)
        self._output_stored = job.output_size
        self._report_in_doubt = False

    def _is_due(self) -> bool:
        """Whether this thread must write now. If not, the monitor writes once the interval is over."""
        now = self._monotonic()
        if now >= self._next_write:
            self._next_write = now + _WRITE_INTERVAL  # so that only one of several threads writes
            return True
        self._mark_dirty()
        return False

    def _mark_dirty(self) -> None:
        self._is_dirty = True
        if not self._is_listed:
            self._is_listed = True
            self._dirty(self)
