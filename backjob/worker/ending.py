"""The fourth step of a worker request: decides and writes what follows the run, and tells the monitor."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from datetime import UTC
from functools import partial

from backjob.endings import log_conclusion, log_fields, write_conclusion
from backjob.errors import StoreError
from backjob.http.marks import end_mark
from backjob.lifecycle import TIMED_OUT, Conclusion, End, Late, after_run, past_end
from backjob.model import Expect, Headers, Job, Status
from backjob.observers import Observers, RunEnd
from backjob.process import PerProcess
from backjob.protocols import Clock, Store
from backjob.worker.exits import call_contained
from backjob.worker.leases import Leases
from backjob.worker.outcomes import Outcome, end_of, exit_of
from backjob.worker.places import Places
from backjob.worker.running import Running

_log = logging.getLogger("backjob")


class Ending:
    """The end of a run; base class of `backjob.worker.claiming.Worker`, which describes the arguments."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        mark_key: bytes,
        *,
        leases: Callable[[], Leases],
        settle: Callable[[str, Callable[[], None]], None],
        announce: Callable[[Job], None],
        run_ended: Callable[[Job], None],
        observers: Observers | None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._mark_key = mark_key
        self._leases = leases
        self._settle = settle
        self._announce = announce
        self._run_ended = run_ended
        self._observers = observers or Observers((), clock)
        self._places = PerProcess(Places)

    def end(self, running: Running, outcome: Outcome) -> None:
        """Decide what follows the run, and write it. Never raises: if the store is unavailable, the monitor retries.

        In a forked child it does nothing: the job is the parent's, which still runs it.
        """
        if running.is_inherited:
            return
        if running.file is None:
            running.file = outcome.file
        elif outcome.file is not None:
            outcome.file.close()  # finish(file=…) counts more
        conclusion = running.after(end_of(running, outcome), _spread())
        seconds = self._clock.monotonic() - running.began

        def observe(followed: Conclusion) -> None:
            if running.at_end:
                self._observers.run_ended(running.at_end, RunEnd(followed, outcome.status, outcome.error, seconds))

        is_exit = not isinstance(outcome.error, Exception | None) and exit_of(outcome.error) is None
        conclude = partial(self._conclude, running, conclusion, outcome.error if is_exit else None, observe)
        try:
            conclude()
        except StoreError as failure:
            observe(conclusion)
            _log.info("job %s: the end of its run will be written later: %s", running.job.id, failure)
            running.waits_to_end = True
            self._settle(running.job.id, conclude)
        finally:
            self._places.get().release()

    def _conclude(
        self,
        running: Running,
        conclusion: Conclusion,
        error: BaseException | None,
        observe: Callable[[Conclusion], object],
    ) -> None:
        """Write what follows the run. Raises `StoreError`: its lease is renewed until a later call has succeeded.

        ``observe`` is called with what followed in fact: the job may have been cancelled meanwhile.
        """
        job = running.job
        followed = conclusion
        try:
            changed = running.conclude(conclusion)
            if changed is None:
                running.drop_kept_file()
                followed = self._after_fence(running) or conclusion
            elif changed.status.is_final:  # perhaps FAILED, if the store refused the cursor or the file
                followed = _ended_as(changed)
                running.end_mark = self._end_mark(running)
        except StoreError:
            raise
        except Exception:
            _log.exception("job %s: the end of its run could not be written", job.id)
            changed = None
        observe(followed)
        running.drop_file()
        self._leases().drop(running)
        if changed is not None:
            self._follow_up(job, conclusion, changed, error)

    def _end_mark(self, running: Running) -> Headers:
        if running.opened is None:
            return ()
        grant = running.opened.verified.grant
        return end_mark(self._mark_key, grant.job_id, grant.run, grant.delivery)

    def _after_fence(self, running: Running) -> Conclusion | None:
        """Requeue the job if its run was fenced because it timed out. Otherwise it ended, or was requeued, elsewhere.

        Returns what followed the run, or None if the store does not tell.
        """
        job = self._store.get(running.job.id)
        if job is None or job.run != running.job.run or job.token != TIMED_OUT or job.status.is_final:
            cause = "deleted" if job is None else job.status.name.lower()
            text = "job %s: this run was over already; the end of its action is not recorded"
            _log.info(text, running.job.id, extra=log_fields(running.job, cause))
            return _ended_as(job) if job is not None and job.run == running.job.run and job.status.is_final else None
        conclusion = after_run(job, past_end(job, Late.SILENT), _spread())
        changed = write_conclusion(
            self._store,
            job,
            Expect(status=Status.IN_PROGRESS, run=job.run, token=TIMED_OUT),  # an end keeps the token
            conclusion,
            job.read_time.astimezone(UTC),
        )
        if changed is not None:
            self._follow_up(job, conclusion, changed, None)
        return conclusion

    def _follow_up(self, before: Job, conclusion: Conclusion, job: Job, error: BaseException | None) -> None:
        log_conclusion(before, conclusion, error)
        if isinstance(conclusion, End):
            call_contained(lambda: self._announce(job), "job %s: announcing its end", job.id)
        self._run_ended(job)


def _ended_as(job: Job) -> End:
    return End(job.status, job.status_text)


def _spread() -> float:
    return random.uniform(-1, 1)  # noqa: S311 - not for secrets
