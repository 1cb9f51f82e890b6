"""Generated races between threads; afterwards each job must match the writes that succeeded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Final, TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from backjob.errors import SlotTaken
from backjob.lifecycle import Requeue, cancelled, claimed, completed, continued, ended, failed, requeued
from backjob.model import Changes, Expect, Job, Output, Report, Status
from backjob.protocols import Capability, Store, lacks
from backjob.testing._stores.case import StoreCase, draft, kept, same
from backjob.testing._stores.delaying import DelaysJobs
from backjob.testing._stores.generated import SHRINKING, Search
from backjob.testing._stores.merging import MergesJobs
from backjob.testing.clock import FakeClock


class AnyRace(StoreCase):
    """Generated races: claims, requeues, reports, ends, cancels, and leases, slots and merge keys if the suite covers them."""

    race_examples = 15
    """The number of generated races."""
    shrinking = SHRINKING
    """Seconds for which the suite looks for a shorter failing race or sequence."""

    def test_any_race_has_one_claim_and_one_end(self) -> None:
        deeds: list[Deed] = [_claim, _claim, _report, _requeue, _beat, _end, _cancel]
        deeds += [] if Capability.SLOTS in lacks(self.store) else [_slot]
        deeds += [_take] if isinstance(self, DelaysJobs) else []
        deeds += [_free] if isinstance(self, MergesJobs) else []
        script = st.lists(st.tuples(st.sampled_from(deeds), st.sampled_from(_NAMES)), max_size=8)

        search = Search(self.shrinking)

        @search.settings(max_examples=self.race_examples)
        @given(st.lists(script, min_size=2, max_size=4))
        def race(scripts: list[Script]) -> None:
            search.begin()
            store = self.new_store(FakeClock())
            error: AssertionError | None = None
            try:
                self._race(store, scripts)
            except AssertionError as broken:
                error = broken
                raise
            finally:
                search.note(error, _described(scripts))
                if self.deadline.is_stuck:
                    search.stop()
                self.close(store)

        search.run(race)

    def _race(self, store: Store, scripts: list[Script]) -> None:
        """Run each script in its own thread, as a worker with its own token for each run."""
        for name in _NAMES:
            store.create(draft(name), f"key {name}" if isinstance(self, MergesJobs) else None)
        logs = self.at_once([partial(_act, store, f"{racer}", script) for racer, script in enumerate(scripts)])
        slots = [job.slot for name in _NAMES if (job := store.get(name)) is not None and job.slot is not None]
        same(slots, sorted(set(slots)), "a slot belongs to one job at a time")
        for name in _NAMES:
            _verify(store, name, [event for log in logs for job_id, event in log if job_id == name])


Log: TypeAlias = list[tuple[str, str]]
"""The writes of one thread that succeeded: (job id, event), in order."""


def _log(event: str, job: Job | None) -> Log:
    return [] if job is None else [(job.id, event)]


def _run(store: Store, name: str) -> int:
    job = store.get(name)
    return 0 if job is None else job.run


def _claim(store: Store, name: str, racer: str, _: int) -> Log:
    run = _run(store, name)
    return _log(f"claimed {run} {racer}", store.change(name, *claimed(f"{run} {racer}", run, 60)))


def _report(store: Store, name: str, racer: str, number: int) -> Log:
    run = _run(store, name)
    written = store.report(name, f"{run} {racer}", Report(output=f"{number};"))
    return [(name, f"reported {run} {number};")] if written else []


def _requeue(store: Store, name: str, racer: str, number: int) -> Log:
    job = store.get(name)
    if job is None:
        return []
    requeue = (Requeue("failed"), continued(number))[number % 2]
    expect = Expect(status=Status.IN_PROGRESS, run=job.run, token=f"{job.run} {racer}")
    return _log(f"requeued {job.run}", store.change(name, expect, requeued(job, requeue, job.read_time)))


def _beat(store: Store, name: str, racer: str, _: int) -> Log:
    store.beat({name: f"{_run(store, name)} {racer}"}, 60, frozenset((name,)))
    return []


def _slot(store: Store, name: str, _: str, __: int) -> Log:
    try:
        return _log("got a slot", store.change(name, Expect(unclaimed=True), Changes(slot="default/0")))
    except SlotTaken:
        return []


def _end(store: Store, name: str, racer: str, number: int) -> Log:
    end = (completed(), failed("broken"))[number % 2]
    expect = Expect(status=Status.IN_PROGRESS, token=f"{_run(store, name)} {racer}")
    return _log(f"ended {end.status.name}", store.change(name, expect, ended(end)))


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


def _described(scripts: list[Script]) -> list[str]:
    """One line for each deed of each thread."""
    return [
        f"thread {racer}: {deed.__name__.strip('_')} {name}"
        for racer, script in enumerate(scripts)
        for deed, name in script
    ]


def _act(store: Store, token: str, script: Script) -> Log:
    return [entry for number, (deed, name) in enumerate(script) for entry in deed(store, name, token, number)]


def _verify(store: Store, name: str, events: list[str]) -> None:
    """Check that a job is the result of exactly the writes that succeeded."""
    job = store.get(name)
    if job is None:
        raise AssertionError("promise broken: a job that was written can be read")
    claims = Counter(event.split()[1] for event in events if event.startswith("claimed "))
    kept(all(count == 1 for count in claims.values()), f"at most one claim of a run wins (claims: {claims})")
    last = [event for event in events if event.startswith(f"claimed {job.run} ")]
    same([f"claimed {job.token}"] if job.token else [], last, "a job has the token of the winning claim")
    runs = sorted(event for event in events if event.startswith("requeued "))
    same([f"requeued {run}" for run in range(1, job.run)], runs, "each run is given up at most once")
    ends = [event for event in events if event.startswith("ended ")]
    same(
        [f"ended {job.status.name}"] if job.status.is_final else [],
        ends,
        "a job ends once, and an ended job does not change",
    )
    kept(events.count("taken") <= job.run, "only one caller gets a lease of each run")
    reports = [event.split() for event in events if event.startswith("reported ")]
    accepted = [text for _, _, text in sorted(reports, key=itemgetter(1))]  # one thread reports in each run
    same(store.output(name), Output("".join(accepted), job.output_size), "output is the accepted reports, in order")
    same(job.version, 1 + len(events), "every successful write raises the version by one")
