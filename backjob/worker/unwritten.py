"""Reports of an action that the store does not have yet."""

from __future__ import annotations

import json
import math
import threading
from typing import Final

from backjob.errors import InvalidRequest
from backjob.model import LONGEST_TAIL, UNSET, Job, JsonValue, Report, Unset, clean_text, short_text

_FULL: Final = 1 << 16  # bytes of output


def percent(progress: float, total: float | None = None, *, argument: str = "progress") -> int:
    """Return progress as an integer from 0 to 100, rounded half up. Raises `InvalidRequest` if it is not a number."""
    if total == 0:
        return 100
    try:
        value = float(progress if total is None else 100 * progress / total)
    except (TypeError, ValueError):
        value = math.nan
    except OverflowError:  # integers too large for a float
        value = math.inf if (progress > 0) == (total is None or total > 0) else -math.inf
    if math.isnan(value):
        given = repr(progress) if total is None else f"{progress!r} of {total!r}"
        raise InvalidRequest(argument, f"must be a number, not {given}")
    return int(min(100.0, max(0.0, value)) + 0.5)


def _sorted_json(value: JsonValue) -> str:
    return json.dumps(value, sort_keys=True)


def _last_bytes(text: str) -> str:
    """Return the end of a text, as long as a tail may be."""
    return text.encode()[-LONGEST_TAIL:].decode("utf-8", "ignore")


class Unwritten:
    """Progress, status text, cursor and output of one job, until `take` makes a `Report` of them. Thread-safe.

    It begins with what earlier runs have written. Any thread may read and set ``progress``, 0–100, without the lock. Of output
    past ``max_output`` bytes only the end is kept, as the tail. ``cursor`` is the latest one, written or not.
    """

    def __init__(self, job: Job, max_output: int) -> None:
        self.progress = job.progress
        self._written_progress = job.progress
        self._exact_progress = float(job.progress)
        self.cursor = job.cursor
        self.has_moved = False
        """Whether the cursor has changed in this run."""
        self._cursor: JsonValue | Unset = UNSET
        self._max_output = max_output
        # Reentrant: a signal handler or a finalizer may print while this thread holds the lock.
        self._lock = threading.RLock()
        self._text: str | None = None
        self._output: list[str] = []
        self._pending_size = 0
        self._total_size = job.output_size
        self._truncated = self._truncation_written = job.output_truncated
        self._tail: list[str] = []
        self._tail_size = 0
        self.has_tail_to_write = False
        """Whether the tail has grown since it was last taken."""

    def raise_progress(self, amount: float) -> None:
        """Raise the progress by an amount. Amounts below 1 add up."""
        percent(amount, argument="amount")  # raises if it is not a number
        with self._lock:
            exact = self._exact_progress if percent(self._exact_progress) == self.progress else self.progress
            self._exact_progress = min(100.0, max(0.0, exact + float(max(-100, min(100, amount)))))
            self.progress = percent(self._exact_progress)

    def set_text(self, text: str, progress: int | None) -> None:
        """Set the status text, and the progress unless it is None."""
        with self._lock:
            self._text = text
            if progress is not None:
                self.progress = progress

    def set_cursor(self, cursor: JsonValue) -> bool:
        """Set the cursor. Returns False if it is the same as before, so that there is nothing to write."""
        with self._lock:
            # JSON tells 1 from True and 1.0, which are equal in Python. A store may return keys in another order.
            if cursor == self.cursor and _sorted_json(cursor) == _sorted_json(self.cursor):
                return False
            self.cursor = self._cursor = cursor
            self.has_moved = True
            return True

    @property
    def cursor_is_written(self) -> bool:
        """Whether no cursor waits to be taken."""
        return isinstance(self._cursor, Unset)

    def take_cursor(self) -> JsonValue | Unset:
        """Return the unwritten cursor, and count it as written; UNSET if there is none."""
        with self._lock:
            cursor, self._cursor = self._cursor, UNSET
            return cursor

    def append(self, text: str) -> bool:
        """Append to the output: up to the limit to its beginning, and then to its tail.

        Returns whether there is so much of it that it should be written at once.
        """
        text = clean_text(text)
        with self._lock:
            if self._truncated:
                self._append_to_tail(text)
                return self._pending_size >= _FULL
            data = text.encode()
            room = self._max_output - self._total_size
            if len(data) > room:
                self._truncated = True
                fitting = data[:room].decode("utf-8", "ignore")
                self._append_to_tail(text[len(fitting) :])
                text = fitting
                data = text.encode()
            if text:
                self._output.append(text)
            self._total_size += len(data)
            self._pending_size += len(data)
            return self._pending_size >= _FULL

    def _append_to_tail(self, text: str) -> None:
        text = text[-LONGEST_TAIL:]
        self._tail.append(text)
        self._tail_size += len(text)
        self.has_tail_to_write = True
        if self._tail_size > 2 * LONGEST_TAIL:  # not at each line: the longest tail is copied here
            self._tail = [_last_bytes("".join(self._tail))]
            self._tail_size = len(self._tail[0])

    def take(self, *, with_tail: bool = True) -> Report | None:
        """Return everything that is unwritten, and count it as written; None if there is nothing.

        Without ``with_tail`` the tail stays unwritten.
        """
        with self._lock:
            progress = self.progress
            with_tail = with_tail and self.has_tail_to_write
            truncated = with_tail or (self._truncated and not self._truncation_written)
            has_news = self._text is not None or self._output or truncated or not isinstance(self._cursor, Unset)
            if progress == self._written_progress and not has_news:
                return None
            report = Report.of_checked(
                None if progress == self._written_progress else progress,
                None if self._text is None else short_text(self._text),  # not for each row of a loop
                "".join(self._output),
                truncated=truncated,
                cursor=self._cursor,
                tail=_last_bytes("".join(self._tail)) if with_tail else UNSET,
            )
            self.has_tail_to_write = self.has_tail_to_write and not with_tail
            self._written_progress = progress
            self._cursor = UNSET
            self._truncation_written = self._truncated
            self._text = None
            self._output.clear()
            self._pending_size = 0
            return report

    def put_back(self, report: Report) -> None:
        """Undo `take`: the report was not written, or may not have been."""
        with self._lock:
            self._written_progress = -1
            self._text = report.text if self._text is None else self._text
            self._cursor = report.cursor if isinstance(self._cursor, Unset) else self._cursor
            if report.output:
                self._output.insert(0, report.output)
                self._pending_size += len(report.output.encode())
            if report.truncated:
                self._truncation_written = False
            if not isinstance(report.tail, Unset):
                self.has_tail_to_write = True

    def drop_output(self, size: int) -> None:
        """Drop the first ``size`` bytes of output: the store has them."""
        with self._lock:
            output = "".join(self._output).encode()
            rest = output[max(0, size) :]
            self._output = [rest.decode("utf-8", "ignore")] if rest else []
            self._pending_size -= len(output) - len(rest)
