"""A claimed job in the process that runs its action: what it reports, and what follows its run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, timedelta
from typing import Final

from attrs import evolve, frozen

from backjob.endings import is_large, without_result, write_conclusion
from backjob.errors import JobExit, StoreUnavailable
from backjob.forks import InProcess
from backjob.lifecycle import Conclusion, End, Requeue, after_run, continued, failed, history_of, is_carried
from backjob.model import Expect, Headers, Job, JsonValue, Status, short_text
from backjob.observers import AtEnd
from backjob.protocols import Clock, Store
from backjob.worker.capture import capture_stderr, capture_stdout
from backjob.worker.files import Keeping, NotKept, Spool, kept
from backjob.worker.logs import capture_logging, line_of
from backjob.worker.replies import WorkerRequest, no_store
from backjob.worker.reports import Reports, is_muted
from backjob.worker.stamps import Stamps

NOT_CAPTURED: Final = -1
_MAX_UNWRITTEN_ENDS: Final = 3

_log = logging.getLogger("backjob")

current: InProcess[Running] = InProcess("backjob_running")


@frozen(eq=False, repr=False)
class CaptureOptions:
    """What becomes output besides stdout: stderr, records of `logging` from a level on (None: none); and with times or not."""

    stderr: bool = False
    logging: int | None = None
    timestamps: bool = False


STDOUT_ALONE: Final = CaptureOptions()


class Running(Reports):
    """One run of a job, from its claim until its end or requeue is written.

    ``owner`` is the job's `BackJob`, and ``opened`` the worker request that has claimed it; ``end_mark`` tells its sender
    that the end of the job is written. The adapter sets the header ``fields`` of the request that the action gets; None removes
    one. ``error`` is the end that the action asked for, or that an error handler noted. ``left_by`` is the `JobExit` that
    ended the action, if an adapter has already turned it into a response. ``message`` is that of an exception which the
    framework turns into a 4xx response. ``file`` is the file that the action has made; its `conclude` keeps it, as ``keeping``
    says. ``has_begun_answer``: only a part of the response that is to be the job's file or result was collected yet. ``began``
    is the monotonic time (s) of the claim. ``surroundings`` are contexts for each thread of the action, and ``at_end`` the
    functions of observers for its end.
    """

    def __init__(
        self,
        job: Job,
        token: str,
        opened: WorkerRequest | None = None,
        *,
        store: Store,
        clock: Clock,
        max_output: int,
        dirty: Callable[[Running], None],
        owner: object = None,
        fields: Mapping[str, str | None] | None = None,
        renewal: float = 2.0,
        keeping: Keeping | None = None,
        capture: CaptureOptions = STDOUT_ALONE,
    ) -> None:
        stamps = Stamps(clock.now) if capture.timestamps else None
        super().__init__(
            job, token, store=store, clock=clock, max_output=max_output, dirty=dirty, renewal=renewal, stamps=stamps
        )
        self.capture = capture
        self.owner = owner
        self.opened = opened
        self.end_mark: Headers = ()
        self.fields = {} if fields is None else dict(fields)
        self.surroundings: list[Callable[[], AbstractContextManager[object]]] = []
        self.at_end: list[AtEnd] = []
        self.finish: End | None = None
        self.error: End | None = None
        self.left_by: JobExit | None = None
        self.message: str | None = None
        self.keeping = keeping or Keeping()
        self.file: Spool | None = None
        self.has_begun_answer = False
        self.began = clock.monotonic()
        self.levels = [NOT_CAPTURED, NOT_CAPTURED]
        """The levels of the proxies of stdout and stderr that capture this job."""
        self._end_in_doubt = False
        self._unwritten_ends = 0
        self._kept_file: JsonValue = None

    @property
    def headers(self) -> Headers:
        """The header fields of the response to the worker request."""
        return (*no_store(), *(() if self.opened is None else self.opened.mark), *self.end_mark)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make this the current job, so that ``print`` goes to its output; but not in a forked child."""
        self.levels[0] = capture_stdout(_from_stdout)
        if self.capture.stderr:
            self.levels[1] = capture_stderr(_from_stderr)
        if self.capture.logging is not None:
            capture_logging(_from_logging)
        token = current.set(None if self.is_inherited else self)
        try:
            if self.surroundings:
                with ExitStack() as around:
                    for surroundings in self.surroundings:
                        around.enter_context(surroundings())
                    yield
            else:
                yield
        finally:
            current.reset(token)

    def after(self, end: End | None, spread: float) -> Conclusion:
        """Return what follows the action: the end, or another run, from the latest cursor. None: the next slice.

        ``spread`` is as for `backjob.lifecycle.after_run`.
        """
        cursor = self._unwritten.take_cursor()
        conclusion = continued() if end is None else after_run(self._latest(), end, spread)
        return evolve(conclusion, cursor=cursor) if isinstance(conclusion, Requeue) else conclusion

    def _latest(self) -> Job:
        """The job as claimed, with what this run has changed that matters to the next one."""
        if not self._unwritten.has_moved:
            return self.job
        return evolve(self.job, attempt=self.attempt, cursor=self.cursor)

    def conclude(self, conclusion: Conclusion) -> Job | None:
        """Write everything that is pending, then what follows this run. Returns the job, or None if the run was over before.

        Raises `StoreUnavailable`; then call it again with the same conclusion.
        """
        if self._end_in_doubt:
            job = self._store.get(self.job.id)
            if job is None or job.status.is_final or job.run != self.job.run:
                self.ended = True
                return job if job is not None and self._is_written(job, conclusion) else None
            self._unwritten_ends += 1
        self._write(is_last=True)
        if self.ended:
            return None
        with_file = self._with_file(conclusion)
        if with_file is None:
            self.ended = True
            return None
        conclusion = with_file
        expect = Expect(status=Status.IN_PROGRESS, run=self.job.run, token=self.token)
        # By the store's clock, as the begin of the run is: the history has both.
        at = (self.job.read_time + timedelta(seconds=self._monotonic() - self.began)).astimezone(UTC)
        latest = self._latest()
        if isinstance(conclusion, Requeue) and is_carried(latest):
            stored = self._store.get(self.job.id)  # the carrier may have left the job since the claim
            latest = latest if stored is None else evolve(latest, lessee=stored.lessee)
        try:
            job = write_conclusion(self._store, latest, expect, conclusion, at)
        except StoreUnavailable:
            self._end_in_doubt = True
            if self._unwritten_ends < _MAX_UNWRITTEN_ENDS or not (isinstance(conclusion, End) and is_large(conclusion)):
                raise
            # The store answers reads. A server that refuses so large a packet may close the connection without a word.
            _log.error("job %s: its end can't be written with its result, so it is written without", self.job.id)
            job = write_conclusion(self._store, latest, expect, without_result(conclusion), at)
        self.ended = True
        return job

    def _with_file(self, conclusion: Conclusion) -> Conclusion | None:
        """Keep the file of an action that succeeded, and return the conclusion with it, or FAILED; None if the run is over.

        Of another action the file is dropped. Raises `StoreError`.
        """
        spool = self.file
        if spool is None and self._kept_file is None:
            return conclusion
        if not isinstance(conclusion, End) or conclusion.status is not Status.COMPLETED:
            self.drop_file()
            return conclusion
        if spool is not None:
            try:
                self._kept_file = kept(self._store, self.keeping, self.job, self.token, spool)
            except NotKept as error:
                self.drop_file()
                return failed(f"the job's file can't be kept: {error}", unexpected=True)
            self.drop_file()
            if self._kept_file is None:
                return None
        return evolve(conclusion, file=self._kept_file)

    def drop_kept_file(self) -> None:
        """Delete what was kept if the job was ended or deleted meanwhile, so that its row has no file. Raises `StoreError`."""
        files = self.keeping.files
        if self._kept_file is None or files is None:
            return
        job = self._store.get(self.job.id)
        if job is not None and (not job.status.is_final or job.status is Status.COMPLETED):
            return  # a later run may have a file, which is deleted together with this one
        try:
            files.delete(self.job.id)
        except Exception:
            _log.exception("job %s: its file can't be deleted", self.job.id)

    def drop_file(self) -> None:
        """Remove what was collected of the file that the action has made."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def _is_written(self, job: Job, conclusion: Conclusion) -> bool:
        """Whether the store wrote this conclusion, and only the answer was lost."""
        if isinstance(conclusion, Requeue):
            last = (self.job.run, conclusion.reason[:500])
            return any((entry.get("run"), entry.get("reason")) == last for entry in history_of(job))
        text = None if conclusion.text is None else short_text(conclusion.text)
        return job.token == self.token and job.status is conclusion.status and text in (None, job.status_text)


def _from_stdout(content: str | bytes, level: int) -> bool:
    return _write_to_current(content, level, 0)


def _from_stderr(content: str | bytes, level: int) -> bool:
    return _write_to_current(content, level, 1)


def _write_to_current(content: str | bytes, level: int, stream: int) -> bool:
    running = current.get()
    if running is None or running.levels[stream] < level or is_muted.get():
        return False
    if isinstance(content, bytes):
        running.write_bytes(content, stream)
    else:
        running.write(content)
    return True


def _from_logging(record: logging.LogRecord) -> AbstractContextManager[object] | None:
    running = current.get()
    if running is None or running.capture.logging is None or record.levelno < running.capture.logging or is_muted.get():
        return None
    running.write(line_of(record))
    return uncaptured()


@contextmanager
def uncaptured() -> Iterator[None]:
    """Capture nothing of what this thread writes or logs: handlers of a record that is output already must not print it into the output again."""
    token = is_muted.set(True)
    try:
        yield
    finally:
        is_muted.reset(token)
