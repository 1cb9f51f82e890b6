"""Looking at jobs: their state and output, now or as they change. The half of `BackJob` that is used from outside."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Final

from backjob.delivery.monitor import Monitor
from backjob.errors import InvalidRequest, JobNotFound, StoreUnusable
from backjob.lifecycle import ended, overdue
from backjob.model import Expect, Job, JobState, Output, Query, Status, is_storable
from backjob.process import PerProcess
from backjob.protocols import Capability, Clock, Store, lacks
from backjob.worker.offload import Offloading, sleep

__all__ = ["Watching"]

_PIECE: Final = 1 << 16
_FIRST_LOOK: Final = 0.05
_LONGEST_LOOK: Final = 1.0


class Watching(Offloading):
    """The methods that tell of jobs; `BackJob` inherits them, and has the parts they use."""

    store: Store
    monitors: PerProcess[Monitor]
    _clock: Clock

    @property
    def monitor(self) -> Monitor:
        """The monitor of this process."""
        return self.monitors.get()

    def _announce(self, job: Job) -> None:
        """Tell whoever wants to know that a job has ended."""

    def _when_committed(self, job_id: str, step: Callable[[], None], *, is_new: bool = False) -> None:  # noqa: ARG002 - for those that override it
        """Act on what was just written of a job, once others see it too: at once, unless a caller's transaction holds it.

        ``is_new``: the job itself was, and the step is its delivery.
        """
        step()

    def _conclude(self, job: Job) -> None:
        """What follows an end that was written here: nobody delivers the job any more, and whoever wants to know is told."""
        self.monitor.forget(job.id)
        self._announce(job)

    def status(self, job_id: str) -> JobState:
        """The job as it stands. One past its time-out ends FAILED by this look. Raises `JobNotFound`."""
        return self._state(self._job(job_id))

    def exists(self, job_id: str) -> bool:
        """Whether the store has this job."""
        return self._found(job_id) is not None

    def scope(self, job_id: str) -> str:
        """The scope that ``start()`` was given. Raises `JobNotFound`."""
        return self._job(job_id).scope

    def output(self, job_id: str, offset: int = 0) -> Output:
        """At most 64 KiB of output from byte ``offset`` on; go on at its ``next_offset``. Raises `JobNotFound`."""
        if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
            raise InvalidRequest("offset", f"a number of bytes, 0 or more, is needed, not {offset!r}")
        piece = self.store.output(job_id, offset, _PIECE) if is_storable(job_id) else Output("", offset)
        if not piece.text and not self.exists(job_id):
            raise JobNotFound(job_id)
        return piece

    def tail(self, job_id: str) -> tuple[int, Output]:
        """The last 64 KiB of output, behind the offset at which they begin. Raises `JobNotFound`."""
        return self._tail(self._job(job_id))

    def _tail(self, job: Job) -> tuple[int, Output]:
        start = max(0, job.output_size - _PIECE)
        return start, self.store.output(job.id, start, _PIECE)

    def find(
        self,
        scope: str | None = None,
        status: Status | None = None,
        owner: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[JobState]:
        """Jobs that match all that is given, newest first; ``before`` is a job id: the page that follows that job.

        Raises `StoreUnusable` for a store that can't list its jobs, such as a mere cache.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= 1000:
            raise InvalidRequest("limit", f"a number from 1 to 1000 is needed, not {limit!r}")
        if Capability.LISTING in lacks(self.store):
            raise StoreUnusable("this store can't list its jobs; ask for one by its id, or keep jobs in a database")
        query = Query(scope=scope, status=status, owner=owner, limit=limit, before=before)
        return [self._state(job) for job in self.store.find(query)]

    def watch(self, job_id: str) -> Iterator[JobState]:
        """Yield the state now and at every change, and lastly the final one. Raises `JobNotFound`."""
        waiting = threading.Event()
        for wait in self._looks(job_id):
            if isinstance(wait, JobState):
                yield wait
            else:
                waiting.wait(wait)

    def join(self, job_id: str, timeout: float | None = None) -> JobState:
        """Wait for the end, and return it. Raises `JobNotFound`, and `TimeoutError` after ``timeout`` seconds."""
        waiting = threading.Event()
        looks = self._looks(job_id, timeout)
        while True:
            look = next(looks)
            if not isinstance(look, JobState):
                waiting.wait(look)
            elif look.status.is_final:
                return look

    def _looks(self, job_id: str, timeout: float | None = None) -> Iterator[JobState | float]:
        """States as they change, and between two looks the seconds to wait; ends after the final state."""
        until = None if timeout is None else self._clock.monotonic() + timeout
        wait = _FIRST_LOOK
        last: JobState | None = None
        while True:
            state = self.status(job_id)
            if state != last:
                yield state
                last, wait = state, _FIRST_LOOK
            if state.status.is_final:
                return
            if until is not None:
                left = until - self._clock.monotonic()
                if left <= 0:
                    raise TimeoutError(f"job {job_id} has not ended within {timeout:g} s: {state.status.name}")
                wait = min(wait, left)
            yield wait
            wait = min(_LONGEST_LOOK, wait * 1.5)

    def _found(self, job_id: str) -> Job | None:
        """The job, or None. An id that no store can keep may come from a request's path; the store never gets it."""
        return self.store.get(job_id) if is_storable(job_id) else None

    def _job(self, job_id: str) -> Job:
        job = self._found(job_id)
        if job is None:
            raise JobNotFound(job_id)
        end = overdue(job)
        if end is not None and self.monitor.may_reap():
            changed = self.store.change(job.id, Expect(status=job.status, version=job.version), ended(end))
            if changed is not None:
                self._when_committed(job_id, partial(self._conclude, changed))
                return changed
            return self.store.get(job_id) or job
        return job

    def _state(self, job: Job) -> JobState:
        text = job.status_text
        if text is None:
            text = self._tail(job)[1].text if job.output_size else ""
        return JobState(
            id=job.id,
            status=job.status,
            progress=job.progress,
            status_text=text,
            start_time=job.start_time,
            updated_time=job.updated_time,
            end_time=job.end_time,
            result=job.result,
            owner=job.owner,
            scope=job.scope,
        )

    # --- for async handlers -----------------------------------------------------------------------------------------

    async def astatus(self, job_id: str) -> JobState:
        """`status` that leaves the event loop alone."""
        return await self._offload(self.status, job_id)

    async def aoutput(self, job_id: str, offset: int = 0) -> Output:
        """`output` that leaves the event loop alone."""
        return await self._offload(self.output, job_id, offset)

    async def awatch(self, job_id: str) -> AsyncIterator[JobState]:
        """`watch` for an async handler."""
        looks = self._looks(job_id)
        while (wait := await self._offload(next, looks, None)) is not None:
            if isinstance(wait, JobState):
                yield wait
            else:
                await sleep(wait)

    async def ajoin(self, job_id: str, timeout: float | None = None) -> JobState:  # noqa: ASYNC109 - join's twin
        """`join` for an async handler."""
        looks = self._looks(job_id, timeout)
        while True:
            look = await self._offload(next, looks)
            if not isinstance(look, JobState):
                await sleep(look)
            elif look.status.is_final:
                return look
