"""The parts that an application's monitor works with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Final, Protocol

from attrs import field, frozen

from backjob.delivery.addresses import Addresses
from backjob.delivery.dispatching import Dispatcher
from backjob.model import Credentials, Job, Query
from backjob.process import Outage
from backjob.protocols import Capability, Clock, Files, Signer, Store, lacks

_DAY: Final = 86400.0
_BATCH: Final = 100

_log = logging.getLogger("backjob")


@frozen(eq=False, repr=False)
class Retention:
    """How many days ended jobs are kept: COMPLETED ones, and all of them. 0 keeps them for ever. ``files`` has their files."""

    completed_days: float = 30
    days: float = 60
    files: Files | None = None
    _calls_without_files: Iterator[int] = field(factory=count, init=False)

    def purge(self, store: Store) -> int:
        """Remove the jobs past their age, with their files; returns how many."""
        ages = (self.completed_days * _DAY, self.days * _DAY)
        return store.purge(*ages) + self._purge_with_files(store, ages)

    def _purge_with_files(self, store: Store, ages: tuple[float, float]) -> int:
        """Remove the jobs past their age that have a file, which `Store.purge` leaves. Returns how many."""
        if lacks(store) & {Capability.RETENTION, Capability.LISTING}:
            return 0
        if self.files is None:
            self._warn_of_files(store, ages)
            return 0
        removed, kept = 0, set[str]()
        while True:
            found = store.find(Query(expired=ages, has_file=True, limit=_BATCH + len(kept)))
            jobs = [job.id for job in found if job.id not in kept]
            if not jobs:
                return removed
            for job_id in jobs:
                if remove(store, self.files, job_id):
                    removed += 1
                else:
                    kept.add(job_id)

    def _warn_of_files(self, store: Store, ages: tuple[float, float]) -> None:
        """Log, once in a process, that jobs with a file stay, because without FILES nothing can delete their files."""
        if store.find(Query(expired=ages, has_file=True, limit=1)) and next(self._calls_without_files) == 0:
            _log.warning(
                "ended jobs that have a file are not removed, because FILES does not say where the files are: set it to the "
                "place that it had when they were written"
            )


def remove(store: Store, files: Files, job_id: str) -> bool:
    """Remove a job after its file, so that no file is left without a job. Returns whether it is removed."""
    try:
        files.delete(job_id)
    except Exception:
        _log.exception("job %s is not removed yet, because its file can't be deleted", job_id)
        return False
    return store.delete(job_id)


class Reporting(Protocol):
    """A running job whose pending reports the monitor writes: `backjob.worker.running.Running`."""

    job: Job

    @property
    def next_write(self) -> float: ...

    def unlist(self) -> bool: ...


@frozen(kw_only=True, eq=False, repr=False)
class DeliveryParts:
    """The parts that `Monitor` needs.

    ``addresses`` returns the destinations of worker requests, ``base_url_setting`` is the advice to set it, and probes go
    below ``status_prefix``. ``announce`` is called with every job that the monitor ends. ``leave`` is the last call in the
    monitor's thread: it closes what an adapter keeps for each thread; it is also called before the thread rests.
    ``delivery_timeout`` and ``run_lease`` are in seconds; ``unseal`` opens a job's sealed credentials, or returns None.
    ``is_authentic`` says whether a job is stored as this application wrote it. ``relabel`` gives some jobs of an older key
    the label of the current one, and returns how many.

    ``may_reap`` says whether this process is on time, so that it may end the jobs of others; ``is_draining`` whether it is
    about to end. ``max_running`` returns how many jobs it may have in flight, and ``queues`` has the limits of the queues
    that have one. ``is_busy`` says whether this process runs jobs, and ``close_idle`` closes connections to the store that
    are not in use. ``tend_leases`` is called in each pass: it renews the leases of running jobs if they have no thread, and
    returns when it must be called again. ``write_together`` writes the pending reports of some running jobs, and raises
    nothing. ``outage`` logs the failures of the store, for all threads of the process together.

    ``delivers`` returns the queues whose jobs this process takes; None: all that no engine carries. ``dispatcher`` hands jobs to
    engines. With ``keeps_leases`` it delivers the jobs that it was given to their end, and never leaves them to others.
    """

    store: Store
    signer: Signer
    clock: Clock
    addresses: Callable[[], Addresses]
    base_url_setting: str
    status_prefix: str
    announce: Callable[[Job], None]
    leave: Callable[[], None]
    retention: Retention
    delivery_timeout: float
    unseal: Callable[[Job], Credentials | None]
    is_authentic: Callable[[Job], bool]
    relabel: Callable[[], int]
    write_together: Callable[[Sequence[Any]], None]
    outage: Outage | None = None
    run_lease: float = 18.0
    may_reap: Callable[[], bool] = lambda: True
    is_draining: Callable[[], bool] = lambda: False
    max_running: Callable[[], int] = lambda: 1000
    queues: Mapping[str, int] = field(factory=dict)
    is_busy: Callable[[], bool] = lambda: False
    close_idle: Callable[[], None] = lambda: None
    tend_leases: Callable[[], float | None] = lambda: None
    delivers: Callable[[], frozenset[str] | None] = lambda: None
    dispatcher: Dispatcher = field(factory=Dispatcher)
    keeps_leases: bool = False
