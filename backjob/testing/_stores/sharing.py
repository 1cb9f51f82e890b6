"""The promises to concurrent processes."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Final

import pytest

from backjob.lifecycle import claimed
from backjob.model import Job, Query
from backjob.protocols import Capability, lacks
from backjob.testing._stores.case import LEASE, draft, kept, same, whole_output
from backjob.testing._stores.process import chunk
from backjob.testing._stores.seeing import SeesOthers
from backjob.testing._stores.slots import disjoint

_ONCE_EACH: Final = 8  # additional jobs that every thread claims once
_AT_ONCE: Final = 3  # jobs that a thread leases with one call
_SLOTS: Final = 3  # slots that all threads take and release
_REPORTS: Final = 8  # reports by a thread, on average, before others try to end the job


class SharesJobs(SeesOthers):
    """The promises to several processes. Each sees what the others have written, and of races there is one winner: one job
    per merge key, one end, no lost output, one lessee, and one job per slot.

    Override ``address()``, which returns the address of a new, empty store as text. Each process imports the function that
    ``opener`` names, as ``"package.module:function"``, and calls it with the address. By default that is `open_store`, and
    the address is a URL. ``self.directory`` is an empty directory for each test; override ``remove(address)`` to delete
    data elsewhere.

    ``processes`` and ``threads`` (per process) set the size of a race. The store uses its own clock, which must agree with
    the computer's to ``clock_tolerance`` seconds. Needs pytest.
    """

    processes = 4
    threads = 8
    claims = 1000
    """Claims of one job, by all threads."""
    creates = 1000
    """Creates with one merge key, by all threads."""
    due = 200
    """The number of due jobs."""
    slot_takes = 1000
    """Attempts to take a slot, by all threads."""
    contested = 4
    """The number of jobs that threads report on, end and cancel at the same time."""

    def test_of_many_claims_one_wins(self) -> None:
        each = -(-self.claims // (self.processes * self.threads))
        jobs = [("contested", each), *[(f"{number}", 1) for number in range(_ONCE_EACH)]]
        for name, _ in jobs:
            self.store.create(draft(name))
        won = [tuple(pair) for pairs in self._race("claim", jobs=jobs) for pair in pairs]
        same(
            Counter(name for name, _ in won),
            Counter(name for name, _ in jobs),
            "of many claims of one job, exactly one wins",
        )
        for name, token in won:
            job = self._read(name)
            same((job.token, job.version), (token, 2), "a claimed job has its winner's token and one write")

    def test_identical_creates_with_a_merge_key_make_one_job(self) -> None:
        each = -(-self.creates // (self.processes * self.threads))
        created = [pair for pairs in self._race("create", times=each) for pair in pairs]
        returned = {found for _, found in created}
        same(len(returned), 1, f"creates with one merge key all return the same job (returned: {returned})")
        same({job.id for job in self.store.find(Query(limit=10))}, returned, "creates with one merge key make one job")
        written = {tried for tried, _ in created if tried in returned or self.store.get(tried) is not None}
        same(written, returned, "creates with one merge key make one job")

    def test_reports_ends_and_cancels_leave_one_end_and_no_gap(self) -> None:
        names = [f"{number}" for number in range(self.contested)]
        for name in names:
            self.store.create(draft(name))
            self.store.change(name, *claimed("token", 1, LEASE))
        enough = _REPORTS * self.processes * self.threads * len(chunk("0.0", 0).encode())
        done = dict(zip(self._racers(), self._race("end", jobs=names, enough=enough), strict=True))
        for name in names:
            job = self._read(name)
            ends = [end for deeds in done.values() if (end := deeds[name]["end"]) is not None]
            kept(job.status.is_final, "a report is written while the job is IN_PROGRESS with its token")
            same(ends, [job.status.name], "of several ends, the job keeps the one that won")
            kept(not any(deeds[name]["late"] for deeds in done.values()), "an ended job takes no report")
            accepted = {racer: deeds[name]["accepted"] for racer, deeds in done.items()}
            output = whole_output(self.store, name)
            for racer, count in accepted.items():
                mine = [f"{text};" for text in output.split(";") if text.startswith(f"{racer} ")]
                same(mine, [chunk(racer, number) for number in range(count)], "each thread's output is kept, in order")
            size = sum(
                len(chunk(racer, number).encode()) for racer, count in accepted.items() for number in range(count)
            )
            same(len(output.encode()), size, "output is the accepted reports and nothing else")
            same(job.output_size, size, "output_size is the output's size")
            same(job.version, 3 + sum(accepted.values()), "every successful write raises the version by one")

    def test_each_due_job_is_leased_to_one(self) -> None:
        names = [f"{number}" for number in range(self.due)]
        for name in names:
            self.store.create(draft(name))
        taken = dict(zip(self._racers(), self._race("take", at_once=_AT_ONCE), strict=True))
        # A store may skip jobs that others have locked, so a few may be left.
        taken["rest"] = [job.id for job in self.store.take_due("rest", 3600, self.due)]
        leased = Counter(name for ids in taken.values() for name in ids)
        same(leased, Counter(names), "of several callers, exactly one gets each due job")
        for lessee, ids in taken.items():
            for name in ids:
                job = self._read(name)
                same((job.lessee, job.version), (lessee, 2), "the lessee of a job is the caller that took it")

    def test_a_slot_never_has_two_holders(self) -> None:
        if Capability.SLOTS in lacks(self.store):
            pytest.skip("this store lacks Capability.SLOTS")
        racers = self._racers()
        for racer in racers:
            self.store.create(draft(racer))
        rounds = -(-self.slot_takes // len(racers))
        held = [holding for each in self._race("slots", slots=_SLOTS, rounds=rounds) for holding in each]
        for number in range(_SLOTS):
            mine = [(begin, end) for slot, begin, end in held if slot == number]
            kept(mine, "a free slot can be taken")
            disjoint([mine])
        slots = [self._read(racer).slot for racer in racers]
        same(slots, [None] * len(racers), "a slot of None releases it")

    def _read(self, name: str) -> Job:
        job = self.store.get(name)
        if job is None:
            raise AssertionError(f"promise broken: a job that was written can be read ({name!r})")
        return job

    def _racers(self) -> list[str]:
        return [f"{process}.{thread}" for process in range(self.processes) for thread in range(self.threads)]

    def _race(self, scenario: str, **arguments: object) -> list[Any]:
        """The result of each thread of each process, in the order of `_racers`."""
        __tracebackhide__ = True
        task = {"scenario": scenario, "opener": self.opener, "address": self._address, "threads": self.threads}
        with self.children.some(self.processes) as children:
            for index, child in enumerate(children):
                child.send(json.dumps({**task, **arguments, "process": index}))
            for child in children:
                child.receive("ready")
            for child in children:
                child.send("go")
            results = [done for child in children for done in child.receive("done")]
            for child in children:
                child.receive("closed")
            return results
