"""Races between threads that nobody has thought of: generated ones, after which the job must be as they left it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backjob.lifecycle import cancelled, claimed, completed, ended, failed
from backjob.model import Changes, Expect, Job, Output, Report, Status
from backjob.protocols import Store
from backjob.testing._stores.case import StoreCase, draft, kept, plainly, same
from backjob.testing._stores.delaying import DelaysJobs
from backjob.testing._stores.merging import MergesJobs
from backjob.testing.clock import FakeClock

__all__ = ["AnyRace"]


class AnyRace(StoreCase):
    """Generated races: claims, reports, ends and cancels, with leases and merge keys where the suite has them too."""

    race_examples = 15
    """Generated races."""

    def test_any_race_leaves_one_claim_and_one_end(self) -> None:
        deeds: list[Deed] = [_claim, _report, _end, _cancel]
        deeds += [_take] if isinstance(self, DelaysJobs) else []
        deeds += [_free] if isinstance(self, MergesJobs) else []
        script = st.lists(st.tuples(st.sampled_from(deeds), st.sampled_from(_NAMES)), max_size=8)

        @settings(
            max_examples=self.race_examples,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=(HealthCheck.too_slow,),
        )
        @given(st.lists(script, min_size=2, max_size=4))
        def race(scripts: list[Script]) -> None:
            store = self.new_store(FakeClock())
            try:
                self._race(store, scripts)
            finally:
                if not self._is_stuck:
                    store.close()

        plainly(race)

    def _race(self, store: Store, scripts: list[Script]) -> None:
        """Let each script be acted by a thread of its own, as a worker with its own token would act."""
        for name in _NAMES:
            store.create(draft(name), f"key {name}" if isinstance(self, MergesJobs) else None)
        logs = self.at_once([partial(_act, store, f"{racer}", script) for racer, script in enumerate(scripts)])
        for name in _NAMES:
            _verify(store, name, [event for log in logs for job_id, event in log if job_id == name])


Log: TypeAlias = list[tuple[str, str]]
"""What one thread got done: (job id, event), in order."""


def _log(event: str, job: Job | None) -> Log:
    return [] if job is None else [(job.id, event)]


def _claim(store: Store, name: str, token: str, _: int) -> Log:
    return _log(f"claimed {token}", store.change(name, *claimed(token)))


def _report(store: Store, name: str, token: str, number: int) -> Log:
    return [(name, f"said {number};")] if store.report(name, token, Report(output=f"{number};")) else []


def _end(store: Store, name: str, token: str, number: int) -> Log:
    end = (completed(), failed("broken"))[number % 2]
    job = store.change(name, Expect(status=Status.IN_PROGRESS, token=token), ended(end))
    return _log(f"ended {end.status.name}", job)


def _cancel(store: Store, name: str, _: str, number: int) -> Log:
    status = (Status.STARTED, Status.IN_PROGRESS)[number % 2]
    return _log("ended CANCELLED", store.change(name, Expect(status=status), ended(cancelled())))


def _take(store: Store, _: str, token: str, number: int) -> Log:
    return [(job.id, "taken") for job in store.take_due(token, 60, 1 + number % 2)]


def _free(store: Store, name: str, _: str, __: int) -> Log:
    return _log("freed", store.change(name, Expect(), Changes(free_merge_key=True)))


Deed: TypeAlias = Callable[[Store, str, str, int], Log]
Script: TypeAlias = list[tuple[Deed, str]]

_NAMES: Final = ("a", "b")


def _act(store: Store, token: str, script: Script) -> Log:
    return [entry for number, (deed, name) in enumerate(script) for entry in deed(store, name, token, number)]


def _verify(store: Store, name: str, events: list[str]) -> None:
    """What stands of a job is what the threads got done, no more and no less."""
    job = store.get(name)
    if job is None:
        raise AssertionError("promise broken: a job that was written is found again")
    claims = [event for event in events if event.startswith("claimed ")]
    kept(len(claims) <= 1, f"at most one claim wins (won: {claims})")
    same([f"claimed {job.token}"] if job.token else [], claims, "a job carries the token of the claim that won")
    ends = [event for event in events if event.startswith("ended ")]
    same([f"ended {job.status.name}"] if job.status.is_final else [], ends, "a job ends once, and stays as it ended")
    kept(events.count("taken") <= 1, "a lease is given to one")
    accepted = [event.removeprefix("said ") for event in events if event.startswith("said ")]
    same(store.output(name), Output("".join(accepted), job.output_size), "output is what was accepted, in order")
    same(job.version, 1 + len(events), "every write that succeeded raised the version by one")
