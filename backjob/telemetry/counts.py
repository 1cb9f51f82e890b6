"""How many jobs wait and run now, by queue, as the store counts them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Final

from attrs import define, frozen

from backjob.http.serving import serving
from backjob.model import DEFAULT_QUEUE, Query, Status
from backjob.process import Outage
from backjob.protocols import Clock, Store

OTHER: Final = "other"
"""Stands for all queues that this process has not seen yet."""

_MOST_QUEUES: Final = 100
_ALL: Final = (1 << 63) - 1

STATES: Final = {"waiting": Status.STARTED, "running": Status.IN_PROGRESS}


@frozen
class Counted:
    """A number of jobs of one queue; ``state`` is ``waiting`` or ``running``."""

    state: str
    queue: str
    number: int


@define(eq=False)
class JobCounts:
    """Counts the jobs of one application, each queue by itself."""

    _store: Callable[[], Store]
    _release: Callable[[], object]
    _faults: Outage
    _queues: dict[str, None]

    @classmethod
    def of(
        cls, store: Callable[[], Store], release: Callable[[], object], clock: Clock, queues: Iterable[str] = ()
    ) -> JobCounts:
        """Return the counts of the jobs in a store. ``release()`` closes what a thread keeps open there."""
        return cls(store, release, Outage(clock), dict.fromkeys((DEFAULT_QUEUE, *queues)))

    def note(self, queue: str) -> str:
        """Have the queue counted by its name from now on. Returns the name for labels: `OTHER` beyond 100 queues."""
        if queue not in self._queues:
            if len(self._queues) >= _MOST_QUEUES:
                return OTHER
            self._queues[queue] = None
        return queue

    def now(self, states: Iterable[str] = STATES) -> list[Counted]:
        """Count in the store, for each state in all queues and in each. Returns nothing if it fails, which is logged."""
        try:
            return [counted for state in states for counted in self._of_state(state)]
        except Exception as error:
            self._faults.warn("the jobs that wait and run can't be counted for metrics: %s", error)
            return []
        finally:
            if serving.get() is None:  # the thread of an exporter, which may end now, or rest until it exports again
                self._release()

    def _of_state(self, state: str) -> list[Counted]:
        store, status = self._store(), STATES[state]
        total = store.count(Query(status=status, limit=_ALL))
        found = [
            Counted(state, queue, store.count(Query(status=status, queue=queue, limit=_ALL)))
            for queue in list(self._queues)
        ]
        others = total - sum(counted.number for counted in found)
        # Not positive, too, if jobs were started between two of these queries.
        return [*found, Counted(state, OTHER, others)] if others > 0 else found


_known: Final[weakref.WeakSet[JobCounts]] = weakref.WeakSet()


def add(counts: JobCounts) -> None:
    """Have `all_now` include these counts for as long as they exist."""
    _known.add(counts)


def all_now() -> list[Counted]:
    """Return the sums over all applications of this process."""
    sums: dict[tuple[str, str], int] = {}
    for counts in list(_known):
        for counted in counts.now():
            key = (counted.state, counted.queue)
            sums[key] = sums.get(key, 0) + counted.number
    return [Counted(state, queue, number) for (state, queue), number in sums.items()]
