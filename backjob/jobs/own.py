"""The application's own jobs in a store that other applications may share. Their jobs are unknown here."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

from attrs import evolve

from backjob.clock import SystemClock
from backjob.errors import SlotTaken
from backjob.lifecycle import ended, late, overdue, reaped
from backjob.model import Changes, Draft, Expect, Job, Output, Query, Report, Status
from backjob.overriding import override
from backjob.protocols import Capability, Clock, Store, lacks, report_all_of
from backjob.signing.rows import RowKeys
from backjob.signing.sealing import Sealer

_MAX_KNOWN: Final = 10_000
_BATCH: Final = 100
_LOOK_INTERVAL: Final = 20.0  # s
_LOST_AFTER: Final = 60.0  # s

_log = logging.getLogger("backjob")


class OwnJobs(Store):
    """A `Store` of the jobs with one of the application's labels. It does not know the id of any other job.

    ``store`` keeps the jobs. Jobs of other applications are neither found nor leased, ended or purged.
    """

    def __init__(self, store: Store, keys: RowKeys, clock: Clock | None = None) -> None:
        self.store = store
        self._keys = keys
        self._monotonic = (clock or SystemClock()).monotonic
        self._next_look = -math.inf
        self._lost: dict[tuple[str, int, datetime | None], float] = {}
        """The runs of other applications that have a slot and no living process, each with when this process first saw it."""
        self._known: dict[str, None] = {}
        self._moved: set[str] = set()
        """The jobs that this process has given the current label since it last found none."""

    @property
    def lacks(self) -> frozenset[Capability]:
        """What the store lacks."""
        return lacks(self.store)

    @override
    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        job = self.store.create(self._keys.authenticated(draft), merge_key)
        return self._own(job) or job

    @override
    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        return self._own(self.store.get(job_id, body=body))

    @override
    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        if job_id not in self._known and self.get(job_id) is None:
            return Output("", offset)
        return self.store.output(job_id, offset, limit)

    @override
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        if job_id not in self._known and self.get(job_id) is None:
            return None
        try:
            return self.store.change(job_id, expect, changes)
        except SlotTaken:
            self._free_lost_slots()
            raise

    @override
    def report(self, job_id: str, token: str, report: Report) -> bool:
        return self.store.report(job_id, token, report)

    @property
    def report_all(self) -> Callable[[Sequence[tuple[str, str, Report]]], Sequence[bool]] | None:
        """The method of the store; None if it lacks it."""
        return report_all_of(self.store)

    @override
    def take_due(
        self,
        lessee: str,
        lease: float,
        limit: int,
        labels: frozenset[str] | None = None,
        full: frozenset[str] = frozenset(),
        *,
        queues: frozenset[str] | None = None,
    ) -> list[Job]:
        taken = self.store.take_due(lessee, lease, limit, self._keys.labels, full, queues=queues)
        return [job for job in taken if self._own(job) is not None]

    @override
    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        return self.store.beat(tokens, lease, alive)

    @override
    def find(self, query: Query) -> list[Job]:
        if not query.overdue:
            return self.store.find(evolve(query, labels=query.labels or self._keys.labels))
        found = self.store.find(evolve(query, labels=self._keys.labels | {""}))
        return [job for job in found if not self._ended_unlabelled(job)]

    @override
    def count(self, query: Query) -> int:
        return self.store.count(evolve(query, labels=query.labels or self._keys.labels))

    @override
    def delete(self, job_id: str) -> bool:
        if job_id not in self._known and self.get(job_id) is None:
            return False
        self._known.pop(job_id, None)
        return self.store.delete(job_id)

    @override
    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        # A job without a label is older than labels are, and no application's.
        return self.store.purge(completed_age, ended_age, self._keys.labels | {""})

    @override
    def close(self) -> None:
        self.store.close()

    # --- after a change of keys ---------------------------------------------------------------------------------------

    def relabel(self, sealer: Callable[[], Sealer | None]) -> int:
        """Move jobs with an older key's label to the current key, at most 100 of each status. Returns how many.

        Where ``sealer`` returns None, jobs with sealed credentials keep their label: to another, these would be worthless.
        Once none is left, you can drop the older key. Call it again at once after it moved some, and after 0 a minute later.
        """
        old = self._keys.labels - {self._keys.label}
        if not old:
            return 0
        count = 0
        for status in Status:
            for job in self.store.find(Query(status=status, labels=old, limit=_BATCH)):
                if job.id in self._moved:
                    # In the middle of a deployment: a process with the keys in the other order has moved it back.
                    self._moved.clear()
                    return 0
                if self._relabelled(job, sealer):
                    if len(self._moved) >= _MAX_KNOWN:
                        self._moved.clear()
                    self._moved.add(job.id)
                    count += 1
        if not count:
            self._moved.clear()
        return count

    def count_old(self, limit: int) -> int:
        """Return how many jobs, at most ``limit``, carry the label of an older key."""
        old = self._keys.labels - {self._keys.label}
        return self.store.count(Query(labels=old, limit=limit)) if old else 0

    def _free_lost_slots(self) -> None:
        """Free the slots of jobs that no process can end any more, such as those from before a change of the only key.

        An application that still exists ends or requeues such a job within seconds, so it has a minute for that.
        """
        now = self._monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_INTERVAL
        seen: dict[tuple[str, int, datetime | None], float] = {}
        for job in self.store.find(Query(overdue=True, limit=_BATCH)):
            limit = late(job)
            if job.slot is None or job.label in self._keys.labels or limit is None:
                continue
            key = (job.id, job.run, job.lease_until)
            since = seen[key] = self._lost.get(key, now)
            if now - since >= _LOST_AFTER and self.store.change(job.id, reaped(job, limit), Changes(slot=None)):
                _log.warning("the slot %s of job %s, which no application here knows, is free again", job.slot, job.id)
        self._lost = seen

    def _ended_unlabelled(self, job: Job) -> bool:
        """End a job without a label: no application can deliver it, and none has its status URL."""
        end = overdue(job)
        if job.label or end is None:
            return False
        self.store.change(job.id, Expect(status=job.status, version=job.version), ended(end, job))
        return True

    def _relabelled(self, job: Job, sealer: Callable[[], Sealer | None]) -> bool:
        changes = Changes(label=self._keys.label)
        if job.request is not None:  # it waits, runs, or may run again
            whole = self.store.get(job.id, body=True)
            if whole is None or whole.version != job.version:
                return False
            proof = self._keys.renewed_proof(whole)
            if proof is not None:  # otherwise its proof no longer fits, and it is never sent
                changes = evolve(changes, proof=proof)
                if whole.sealed is not None:
                    opener = sealer()
                    if opener is None:
                        return False
                    changes = self._resealed(whole, whole.sealed, changes, opener)
        return self.store.change(job.id, Expect(status=job.status, version=job.version), changes) is not None

    def _resealed(self, job: Job, sealed: bytes, changes: Changes, sealer: Sealer) -> Changes:
        credentials = sealer.open(sealed, self._keys.binding(job, job.label))
        if credentials is None:
            return changes
        return evolve(changes, sealed=sealer.seal(credentials, self._keys.binding(job, self._keys.label)))

    def _own(self, job: Job | None) -> Job | None:
        if job is None or job.label not in self._keys.labels:
            return None
        if job.id not in self._known:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()  # each costs one more read
            self._known[job.id] = None
        return job
