"""Stores that renew or end run leases wrongly."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from attrs import evolve

from backjob.model import Changes, Expect, Job
from backjob.stores.memory import MemoryStore
from backjob.stores.steps import holds
from tests.contracts.broken.faults import MICROSECOND, NONE, AltersWhatIsExpected, Tokens, breaks


class AltersABeat(MemoryStore):
    """Beats with other arguments than it was given."""

    def altered(self, tokens: Tokens, lease: float, alive: frozenset[str]) -> tuple[Tokens, float, frozenset[str]]:
        raise NotImplementedError

    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        return super().beat(*self.altered(tokens, lease, alive))


@breaks("test_a_beat_renews_the_leases_of_many_jobs", "a beat sets lease_until, and updated_time of the jobs")
class BeatsWithAVersion(MemoryStore):
    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        stale = super().beat(tokens, lease, alive)
        for job_id in tokens.keys() - stale:
            self._jobs[job_id] = evolve(self._jobs[job_id], version=self._jobs[job_id].version + 1)
        return stale


@breaks("test_a_beat_renews_the_leases_of_many_jobs", "a beat sets lease_until, and updated_time of the jobs")
class TakesAllForAlive(AltersABeat):
    def altered(self, tokens: Tokens, lease: float, alive: frozenset[str]) -> tuple[Tokens, float, frozenset[str]]:
        return tokens, lease, frozenset(tokens)


@breaks("test_a_renewed_lease_is_over_exactly_at_its_new_end", "a beat renews the lease for no longer")
class RenewsAMicrosecondMore(AltersABeat):
    def altered(self, tokens: Tokens, lease: float, alive: frozenset[str]) -> tuple[Tokens, float, frozenset[str]]:
        return tokens, lease + MICROSECOND, alive


@breaks(
    "test_a_renewed_lease_is_over_exactly_at_its_new_end",
    "a renewed lease is not over a microsecond before lease_until",
)
class RenewsAMicrosecondLess(AltersABeat):
    def altered(self, tokens: Tokens, lease: float, alive: frozenset[str]) -> tuple[Tokens, float, frozenset[str]]:
        return tokens, lease - MICROSECOND, alive


@breaks("test_a_beat_of_many_jobs", "beat returns exactly the stale ids, of any number")
class BeatsAHundredAtMost(AltersABeat):
    def altered(self, tokens: Tokens, lease: float, alive: frozenset[str]) -> tuple[Tokens, float, frozenset[str]]:
        return dict(list(tokens.items())[:100]), lease, alive


@breaks(
    "test_a_beat_with_another_token_is_stale_and_changes_nothing",
    "a stale job keeps no other from being renewed",
)
class BeatsAllOrNone(MemoryStore):
    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        stale = frozenset(name for name in tokens if tokens[name] != self._token_of(name))
        return stale or super().beat(tokens, lease, alive)

    def _token_of(self, name: str) -> str | None:
        job = self._jobs.get(name)
        return job.token if job is not None and not job.status.is_final else None


@breaks(
    "test_a_beat_with_another_token_is_stale_and_changes_nothing",
    "beat returns the ids whose jobs do not run with these tokens",
)
class KnowsNothingStale(MemoryStore):
    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        super().beat(tokens, lease, alive)
        return NONE


@breaks("test_a_beat_of_nothing_does_nothing", "the result of beat must be frozenset; it was None")
class AnswersNoBeat(MemoryStore):
    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        super().beat(tokens, lease, alive)
        return None  # type: ignore[return-value]


@breaks(
    "test_a_lease_is_over_exactly_at_lease_until",
    "a lease is not over a microsecond before lease_until",
)
class IgnoresTheLease(AltersWhatIsExpected):
    def altered(self, expect: Expect, job: Job | None) -> Expect:
        return evolve(expect, lease_over=False)


@breaks("test_a_lease_is_over_exactly_at_lease_until", "a lease is over exactly at lease_until")
class EndsALeaseTooLate(AltersWhatIsExpected):
    def altered(self, expect: Expect, job: Job | None) -> Expect:
        is_exact = job is not None and job.lease_until == self._clock.now()
        return evolve(expect, version=0) if expect.lease_over and is_exact else expect


@breaks("test_without_a_lease_none_is_over", "a job without a lease has none that is over")
class TakesNoLeaseForAnOldOne(AltersWhatIsExpected):
    def altered(self, expect: Expect, job: Job | None) -> Expect:
        return evolve(expect, lease_over=expect.lease_over and job is not None and job.lease_until is not None)


@breaks("test_a_beat_and_the_end_of_a_lease_exclude_each_other", "a job is renewed, or ended and stale")
class ReadsTheLeaseFirst(MemoryStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        job = self._jobs.get(job_id)
        if expect.lease_over and (job is None or not holds(expect, job, self._clock.now())):
            return None
        if expect.lease_over:
            time.sleep(0.01)
        return super().change(job_id, evolve(expect, lease_over=False), changes)


STALE: Final = "test_a_beat_with_another_token_is_stale_and_changes_nothing"
MANY: Final = "test_a_beat_of_many_jobs"


class BeatsOnlySome(MemoryStore):
    """Renews only some of the jobs, and reports the right ones as stale."""

    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        before = dict(self._jobs)
        stale = super().beat(tokens, lease, alive)
        renewed = self.some(list(tokens), stale)
        self._jobs |= {job_id: before[job_id] for job_id in tokens.keys() - stale - set(renewed)}
        return stale

    def some(self, job_ids: list[str], stale: frozenset[str]) -> list[str]:
        raise NotImplementedError


@breaks(STALE, "a stale job keeps no other from being renewed")
class RenewsUntilTheFirstStale(BeatsOnlySome):
    def some(self, job_ids: list[str], stale: frozenset[str]) -> list[str]:
        first = min([job_ids.index(job_id) for job_id in stale], default=len(job_ids))
        return job_ids[:first]


@breaks(STALE, "beat returns the ids whose jobs do not run with these tokens")
class NamesTheFirstStale(MemoryStore):
    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        stale = super().beat(tokens, lease, alive)
        return frozenset([job_id for job_id in tokens if job_id in stale][:1])


@breaks(MANY, "a beat renews any number of leases")
class RenewsAHundredJobs(BeatsOnlySome):
    def some(self, job_ids: list[str], stale: frozenset[str]) -> list[str]:
        return [job_id for job_id in job_ids if job_id not in stale][:100]


@breaks(MANY, "a beat renews any number of leases")
class LooksAtAHundredTokens(BeatsOnlySome):
    def some(self, job_ids: list[str], stale: frozenset[str]) -> list[str]:
        return job_ids[:100]


@breaks(MANY, "a beat renews any number of leases")
class SkipsBatchesWithAStaleToken(BeatsOnlySome):
    def some(self, job_ids: list[str], stale: frozenset[str]) -> list[str]:
        batches = [job_ids[begin : begin + 100] for begin in range(0, len(job_ids), 100)]
        return [job_id for batch in batches if not stale.intersection(batch) for job_id in batch]


@breaks(MANY, "beat returns exactly the stale ids, of any number")
class NamesAHundredStale(MemoryStore):
    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        return frozenset(list(super().beat(tokens, lease, alive))[:100])
