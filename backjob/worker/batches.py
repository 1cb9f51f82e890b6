"""Writes the pending reports of many runs in few transactions, if the store can: see `backjob.protocols.ReportsTogether`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from backjob.errors import StoreUnavailable
from backjob.model import Report
from backjob.protocols import Store, report_all_of
from backjob.worker.running import Running, uncaptured

_MOST: Final = 100
_LARGEST: Final = 1 << 20  # characters; other writers need the store too, and a server may refuse a large packet

_log = logging.getLogger("backjob")


def write_together(store: Store, runs: Sequence[Running]) -> None:
    """Write what these runs have pending, as `Running.flush` does. A failure is logged, and the other runs are written."""
    report_all = report_all_of(store)
    if report_all is None or len(runs) == 1:
        alone = list(runs)
    else:
        with uncaptured():  # what the store prints is not output: writing it would deadlock on the locks of the batch
            alone = _Batches(report_all).write(runs)
    for run in alone:
        try:
            run.flush()
        except Exception:
            _log_failure(run)


class _Batches:
    """The batches of one call of `write_together`. No thread of their actions writes for the runs in the current one."""

    def __init__(self, report_all: Callable[[Sequence[tuple[str, str, Report]]], Sequence[bool]]) -> None:
        self._report_all = report_all
        self._taken: list[tuple[Running, Report]] = []
        self._size = 0
        self._outage: StoreUnavailable | None = None
        self._alone: list[Running] = []

    def write(self, runs: Sequence[Running]) -> list[Running]:
        """Write all batches. Returns the runs to write alone: of these, or of a batch with them, the store refuses something."""
        try:
            for run in runs:
                if run.is_refused:
                    self._alone.append(run)
                elif not run.is_inherited:
                    self._add(run)
            self._write_batch(self._begin_next())
        finally:
            self._undo(self._taken)  # after an exception that ends the pass
        return self._alone

    def _add(self, run: Running) -> None:
        if run.is_in_doubt and self._outage is not None:  # each read may wait for the store's whole timeout
            run.postpone(self._outage)
            return
        try:
            report = run.take_for_batch()
        except StoreUnavailable as error:
            self._outage = error
            run.postpone(error)
            return
        except Exception:
            _log_failure(run)
            return
        if report is None:
            return
        size = len(report.output) + len(report.text or "") + len(report.tail or "")
        is_full = len(self._taken) >= _MOST or self._size + size > _LARGEST
        batch = self._begin_next() if is_full else []
        self._taken.append((run, report))  # first, so that nothing is lost if the write ends this pass
        self._size += size
        self._write_batch(batch)

    def _begin_next(self) -> list[tuple[Running, Report]]:
        """Return the current batch, and begin another."""
        batch, self._taken, self._size = self._taken, [], 0
        return batch

    def _write_batch(self, taken: list[tuple[Running, Report]]) -> None:
        if not taken:
            return
        try:
            written = self._report_all([(run.job.id, run.token, report) for run, report in taken])
            answers = list(zip(taken, written, strict=True))
        except StoreUnavailable as error:
            self._undo(taken)
            for run, _ in taken:
                run.postpone(error)
        except BaseException as error:
            self._undo(taken)
            if not isinstance(error, Exception):
                raise
            self._alone += [run for run, _ in taken]
        else:
            for (run, report), is_written in answers:
                run.end_batch(report, is_written=is_written)

    def _undo(self, taken: list[tuple[Running, Report]]) -> None:
        for run, report in taken:
            run.end_batch(report, is_written=None)


def _log_failure(run: Running) -> None:
    _log.exception("job %s: its progress could not be written", run.job.id)
