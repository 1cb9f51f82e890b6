"""Hands the due jobs of some queues to the engines that carry them, such as Celery: the ids of jobs, and nothing else.

A job that was handed over has the lessee `DISPATCHED`, whose lease `backjob.BackJob.deliver` takes over. If its message is
lost, the lease ends, and any process hands the job over once more. If the engine takes no message, the job waits without a
lease, and for a while this process hands over nothing to that engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

from attrs import define

from backjob.clock import Clock, SystemClock
from backjob.errors import StoreUnavailable
from backjob.lifecycle import DELIVERY_LEASE, DISPATCHED, backoff
from backjob.model import Changes, Expect, Job
from backjob.process import RareWarnings
from backjob.protocols import Store

_BATCH: Final = 100
_MOST_WAITING: Final = 1000
_MOST_DOUBLINGS: Final = 6


class Calls(Protocol):
    """Makes calls in a thread of its own."""

    @property
    def count(self) -> int:
        """How many calls wait to be made."""
        ...

    def call(self, job_id: str, callback: Callable[[], object], dropped: Callable[[], object] | None = None) -> None:
        """Make a call, or call ``dropped`` if it can't be made in time."""
        ...


@define(eq=False, repr=False)
class _Engine:
    """An engine, how often it has failed in a row, and until when (monotonic, s) it is left alone."""

    hand_over: Callable[[str], object]
    failures: int = 0
    until: float = 0.0


class Dispatcher:
    """Hands jobs over in one process. ``engines`` has the function of each queue that takes the id of a job.

    ``calls(queue)`` makes these calls, which may block. ``after`` (s) is how long the engine has before the job is handed
    over again; it doubles each time.
    """

    def __init__(
        self,
        engines: Mapping[str, Callable[[str], object]] | None = None,
        store: Store | None = None,
        calls: Callable[[str], Calls] | None = None,
        after: float = 600,
        clock: Clock | None = None,
    ) -> None:
        self._engines = {queue: _Engine(hand_over) for queue, hand_over in (engines or {}).items()}
        self.queues = frozenset(self._engines)
        """The queues that an engine carries."""
        self._store = store
        self._calls = calls
        self.after = after
        self._clock = clock or SystemClock()
        self._warnings = RareWarnings(self._clock)

    # --- called from any thread -------------------------------------------------------------------------------------

    def room(self, queue: str) -> int:
        """Return how many more jobs of a queue may be handed over now."""
        return 0 if self._calls is None else max(0, _MOST_WAITING - self._calls(queue).count)

    def hand_over(self, job: Job) -> None:
        """Have the job's id handed to the engine of its queue, in another thread."""
        engine = self._engines.get(job.queue)
        if engine is not None and self._calls is not None:
            call, give_back = partial(self._hand_over, engine, job), partial(self._give_back, job)
            self._calls(job.queue).call(job.id, call, give_back)

    # --- the monitor's thread ---------------------------------------------------------------------------------------

    def take_due(self) -> bool:
        """Hand over the jobs that are due: delayed and requeued ones, and those whose message was lost.

        Returns whether more of them may be due now.
        """
        now = self._clock.monotonic()
        rooms = {queue: self.room(queue) for queue, engine in self._engines.items() if engine.until <= now}
        ready = {queue: room for queue, room in rooms.items() if room}
        if not ready or self._store is None:
            return False
        limit = min(_BATCH, *ready.values())
        # A short lease first: if the store's answer is lost, the jobs do not wait for as long as if their messages were.
        jobs = self._store.take_due(DISPATCHED, DELIVERY_LEASE, limit, queues=frozenset(ready))
        for job in jobs:
            # A slot or a deadline is that of a process which died; the engine may need the slot for other jobs meanwhile.
            lease = self.after * 2.0 ** min(job.delivery - 1, _MOST_DOUBLINGS)
            expect = Expect(version=job.version, unclaimed=True)
            changes = Changes(delivery=job.delivery + 1, lease=lease, slot=None, deliver_by=None)
            changed = self._store.change(job.id, expect, changes)
            if changed is not None:
                self.hand_over(changed)
        return len(jobs) == limit

    # --- the thread of the calls ------------------------------------------------------------------------------------

    def _hand_over(self, engine: _Engine, job: Job) -> None:
        if engine.until > self._clock.monotonic():
            self._give_back(job)
            return
        try:
            engine.hand_over(job.id)
        except BaseException as error:  # some libraries' time-outs are no `Exception`; this thread is ours
            engine.failures += 1
            engine.until = self._clock.monotonic() + backoff(engine.failures)
            self._warnings.warn(
                job.queue,
                "job %s: its queue %r could not be handed to its engine, so this is tried again: %s: %s",
                job.id, job.queue, type(error).__name__, error,
            )  # fmt: skip
            self._give_back(job)
        else:
            engine.failures = 0

    def _give_back(self, job: Job) -> None:
        """Have the job wait without a lease. If it is delivered already, the engine has got it after all."""
        if self._store is None:
            return
        waiting: Job | None = job
        changes = Changes(lessee=None, lease=None, waiting_for="engine")
        with suppress(StoreUnavailable):  # then the lease of its engine ends
            while waiting is not None and waiting.run == job.run and waiting.lessee == DISPATCHED:
                if self._store.change(job.id, Expect(version=waiting.version, unclaimed=True), changes) is not None:
                    return
                waiting = self._store.get(job.id)  # perhaps a merge has moved its start time
                if waiting is not None and not waiting.is_waiting:
                    return
