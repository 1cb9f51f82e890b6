"""Long actions in slices: one request ends, and another one continues the job from its cursor."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from types import EllipsisType
from typing import Any, Final, NoReturn

from backjob.draining import drain_on_signals
from backjob.errors import (
    BackgroundOnly,
    BackJobError,
    InvalidRequest,
    JobContinued,
    JobEnded,
    JobExit,
    JobRetried,
    NoCurrentRequest,
)
from backjob.http.values import text_of
from backjob.jobs.cursors import checked_cursor, positions_of
from backjob.jobs.engine import Engine, UsesEngine
from backjob.model import JsonValue, Seconds, check_duration, short_text
from backjob.worker.running import Running, current

_log = logging.getLogger("backjob")

_FIRST_PAUSE: Final = 0.1  # s
_LONGEST_PAUSE: Final = 1.0


class Slices(UsesEngine):
    """The methods with which an action continues later; `BackJob` inherits them."""

    def _running(self) -> Running | None:
        running = current.get()
        return running if running is not None and running.owner is self else None

    @property
    def is_background(self) -> bool:
        """Whether the request being served is a verified worker request of this `BackJob`."""
        return self._running() is not None

    @property
    def job_id(self) -> str | None:
        """The id of the current job, or None outside of a background request."""
        running = self._running()
        return None if running is None else running.job.id

    @property
    def owner(self) -> str | None:
        """The owner of the current job, or None: it has none, or this is no background request."""
        running = self._running()
        return None if running is None else running.job.owner

    @property
    def attempt(self) -> int | None:
        """1, plus the runs that have failed since the cursor last moved; None outside of a background request."""
        running = self._running()
        return None if running is None else running.attempt

    # --- the cursor ---------------------------------------------------------------------------------------------------

    @property
    def cursor(self) -> JsonValue:
        """The last cursor that was passed to `checkpoint` or `continue_later`, in this run or an earlier one; None at first."""
        running = self._running()
        return None if running is None else positions_of(running).cursor

    @property
    def time_left(self) -> float:
        """Seconds (0 or more) until this request should hand over: of ``SLICE_TIME``; 0 while the process shuts down.

        Infinite outside of a background request.
        """
        running = self._running()
        return math.inf if running is None else time_left_of(self._engine, running)

    def checkpoint(self, cursor: Any) -> None:
        """Save a cursor, with which a later run continues: everything before it is done, and committed.

        The cursor is JSON of at most 64 KiB. It is saved with the next report, after at most 0.1 s, and with the end of this
        run. Outside of a background request it does nothing else than check its argument. Raises `InvalidRequest`, also inside
        of a database transaction that could roll back what the cursor counts as done, and in a response that is streamed as
        the job's file or result; and `JobEnded` once the job has ended.
        """
        if self._note_cursor(cursor):
            running = self._running()
            if running is not None and running.note_life():
                running.write_now()

    async def acheckpoint(self, cursor: Any) -> None:
        """`checkpoint` that does not block the event loop."""
        if self._note_cursor(cursor):
            running = self._running()
            if running is not None and running.note_life():
                await self._engine.offload(running.write_now)

    def _note_cursor(self, cursor: Any) -> bool:
        value = checked_cursor(cursor)
        running = self._running()
        if running is None:
            return False
        refuse_lost_work(self._engine, running, "cursor")
        _require_job(running)
        positions_of(running).set_cursor(value)
        return True

    # --- leaving a run ------------------------------------------------------------------------------------------------

    def continue_later(self, cursor: Any | EllipsisType = ...) -> NoReturn:
        """End this request; another one continues the job, at once and maybe in another process, with this `cursor`.

        Without a cursor, the last one stays. The action starts from its beginning and reads ``jobs.cursor``. This uses up
        no retry. Raises `InvalidRequest` as `checkpoint` does; then the action goes on. Outside of a background request it
        raises `BackgroundOnly`, or `NoCurrentRequest` if no request is being served.
        """
        if isinstance(cursor, EllipsisType):
            running = self._running()
            if running is not None:
                refuse_lost_work(self._engine, running, "cursor")
        else:
            self._note_cursor(cursor)
        raise leaving(self._run_to_leave("continue_later"), JobContinued())

    async def acontinue_later(self, cursor: Any | EllipsisType = ...) -> NoReturn:
        """`continue_later` for an async handler."""
        self.continue_later(cursor)

    def retry(self, delay: Seconds | None = None, text: str | None = None) -> NoReturn:
        """End this run as failed; if the job has a retry left, another run follows after ``delay`` (s; None: the usual).

        The text is the reason, in the history of the job; without a retry left the job ends FAILED with it. Raises
        `InvalidRequest`; outside of a background request `BackgroundOnly`, or `NoCurrentRequest`.
        """
        seconds = None if delay is None else check_duration("delay", delay)
        reason = short_text(text_of("text", text)) if text else "the action called retry()"
        running = self._run_to_leave("retry")
        raise leaving(running, JobRetried(reason, seconds))

    async def aretry(self, delay: Seconds | None = None, text: str | None = None) -> NoReturn:
        """`retry` for an async handler."""
        self.retry(delay, text)

    def _run_to_leave(self, method: str) -> Running:
        running = self._running()
        if running is None:
            text = f"{method}() ends a run of a background job"
            if self._here() is None:
                raise NoCurrentRequest(f"{text}, but no request passed the middleware")
            raise BackgroundOnly(f"{text}, and this is an ordinary request")
        _require_job(running)
        return running

    def drain_on_signals(self) -> None:
        """Have this process hand its long jobs over and take no more work, once it gets SIGTERM or SIGINT.

        Call it in the main thread of each process that serves requests, after the server has set its handlers: they still
        run. Where a signal would end the process at once, it ends when its jobs have, at most ``DRAIN_TIME`` later, and at
        once at a second signal. It concerns all applications in the process. Raises `RuntimeError` in another thread.

        From now on, and not only from its first request on, the process also ends the jobs of processes that have died.
        """
        drain_on_signals()
        try:
            self._engine.begin_serving()
        except BackJobError as error:  # it begins at the first request
            _log.info("this process delivers jobs from its first request on: %s", error)


def time_left_of(engine: Engine, running: Running) -> float:
    """Return the seconds until a run should hand over."""
    if engine.draining.is_on:
        return 0.0
    return max(0.0, engine.options.slice_time - (engine.clock.monotonic() - running.began))


def refuse_lost_work(engine: Engine, running: Running, argument: str) -> None:
    """Raise `InvalidRequest` if what a cursor counts as done could be lost: by a rollback, or with a part of the response."""
    if running.has_begun_answer:
        raise InvalidRequest(
            argument,
            "the response of this action, which is to be the job's file or result, has begun, and a later run would keep only "
            "its own part of it: write the rows to a file of your own, and pass that to finish(file=…) after the loop",
        )
    refuse_transaction(engine, argument)


def refuse_transaction(engine: Engine, argument: str) -> None:
    """Raise `InvalidRequest` if a transaction is open, which could roll back what a cursor counts as done."""
    database = engine.in_transaction()
    if database is not None:
        raise InvalidRequest(
            argument,
            f"an atomic block is open on the database {database!r}, and its rollback would undo what the cursor counts as "
            "done: save the cursor after the block. If it is ATOMIC_REQUESTS, decorate the view with "
            "@transaction.non_atomic_requests",
        )


def leaving(running: Running, job_exit: JobExit) -> JobExit:
    """Return the exit, noted for the end of the run: it takes place even if the action or its framework catches it."""
    running.left_by = job_exit
    return job_exit


def save(running: Running, pause: Callable[[float], object] = time.sleep) -> None:
    """Write what is pending, and return only when the store has it. Raises `JobEnded`."""
    seconds = _FIRST_PAUSE
    running.write_now()
    while not running.is_saved:
        pause(seconds)
        seconds = min(_LONGEST_PAUSE, 2 * seconds)
        running.write_now()


def _require_job(running: Running) -> None:
    if running.ended:
        raise JobEnded(running.job.id)
