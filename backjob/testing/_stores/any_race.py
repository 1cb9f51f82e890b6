"""Generated races between threads; afterwards each job must match the writes that succeeded."""

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


class AnyRace(StoreCase):
    """Generated races: claims, reports, ends, cancels, and leases and merge keys if the suite covers them."""

    race_examples = 15
    """The number of generated races."""

    def test_any_race_has_one_claim_and_one_end(self) -> None:
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
        """Run each script in its own thread, as a worker with its own token."""
        for name in _NAMES:
            store.create(draft(name), f"key {name}" if isinstance(self, MergesJobs) else None)
        logs = self.at_once([partial(_act, store, f"{racer}", script) for racer, script in enumerate(scripts)])
        for name in _NAMES:
            _verify(store, name, [event for log in logs for job_id, event in log if job_id == name])


Log: TypeAlias = list[tuple[str, str]]
"""The writes of one thread that succeeded: (job id, event), in order."""


def _log(event: str, job: Job | None) -> Log:
    return [] if job is None else [(job.id, event)]


def _claim(store: Store, name: str, token: str, _: int) -> Log:
    return _log(f"claimed {token}", store.change(name, *claimed(token)))


def _report(store: Store, name: str, token: str, number: int) -> Log:
    return [(name, f"reported {number};")] if store.report(name, token, Report(output=f"{number};")) else []


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
    """Check that a job is the result of exactly the writes that succeeded."""
    job = store.get(name)
    if job is None:
        raise AssertionError("promise broken: a job that was written can be read")
    claims = [event for event in events if event.startswith("claimed ")]
    kept(len(claims) <= 1, f"at most one claim wins (winners: {claims})")
    same([f"claimed {job.token}"] if job.token else [], claims, "a job has the token of the winning claim")
    ends = [event for event in events if event.startswith("ended ")]
    same(
        [f"ended {job.status.name}"] if job.status.is_final else [],
        ends,
        "a job ends once, and an ended job does not change",
    )
    kept(events.count("taken") <= 1, "only one caller gets a lease")
    accepted = [event.removeprefix("reported ") for event in events if event.startswith("reported ")]
    same(store.output(name), Output("".join(accepted), job.output_size), "output is the accepted reports, in order")
    same(job.version, 1 + len(events), "every successful write raises the version by one")
