"""The promises of a store to many threads at once: one winner, one end, and nothing lost or done twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backjob.lifecycle import cancelled, claimed, completed, ended, failed
from backjob.model import Changes, Expect, Job, Output, Query, Report, Status
from backjob.protocols import Store
from backjob.testing._store_case import PATIENCE, StoreCase, at_once, draft, kept, same, whole_output
from backjob.testing.clock import FakeClock

__all__ = ["StoreRaces"]


class StoreRaces(StoreCase):
    """Races between threads of one process."""

    racers = 8
    """Threads in each race."""
    race_examples = 15
    """Generated races."""

    def test_of_many_claims_one_wins(self) -> None:
        names = [f"{number}" for number in range(60)]
        for name in names:
            self.store.create(draft(name))

        def claim_all(racer: int) -> list[tuple[str, str]]:
            token = f"token {racer}"
            return [(name, token) for name in names if self.store.change(name, *claimed(token)) is not None]

        won = [pair for pairs in at_once([partial(claim_all, racer) for racer in range(self.racers)]) for pair in pairs]
        same(sorted(name for name, _ in won), sorted(names), "of many claims of one job, exactly one wins")
        for name, token in won:
            job = self.read(name)
            same((job.token, job.version), (token, 2), "a claimed job carries its winner's token, and only one write")

    def test_of_many_changes_of_one_version_one_wins(self) -> None:
        self.running()

        def raise_version(racer: int) -> int:
            wins = 0
            for version in range(2, 32):
                wins += self.store.change("job", Expect(version=version), Changes(progress=racer)) is not None
            return wins

        wins = sum(at_once([partial(raise_version, racer) for racer in range(self.racers)]))
        same(wins, self.read().version - 2, "every version is left by exactly one change")

    def test_identical_creates_with_a_merge_key_make_one_job(self) -> None:
        def create_all(racer: int) -> list[str]:
            return [self.store.create(draft(f"{racer}/{key}"), f"key {key}").id for key in range(20)]

        results = at_once([partial(create_all, racer) for racer in range(self.racers)])
        for other in results[1:]:
            same(other, results[0], "creates with one merge key all return the same job")
        found = {job.id for job in self.store.find(Query(limit=1000))}
        same(found, set(results[0]), "creates with one merge key make one job")

    def test_a_merge_key_freed_in_the_midst_is_never_held_twice(self) -> None:
        def join_and_end(racer: int) -> list[Job]:
            joined = []
            for number in range(15):
                job = self.store.create(draft(f"{racer}/{number}"), "key")
                joined.append(job)
                self.store.change(job.id, Expect(), ended(completed()))
            return joined

        joined = [
            job for jobs in at_once([partial(join_and_end, racer) for racer in range(self.racers)]) for job in jobs
        ]
        kept(all(job.merge_key == "key" for job in joined), "create with a key returns a job that holds it")
        found = self.store.find(Query(limit=1000))
        same({job.id for job in found}, {job.id for job in joined}, "every job that was made was returned to its maker")
        same({job.merge_key for job in found}, {None}, "an ended job holds no key")

    def test_each_due_job_is_taken_by_one(self) -> None:
        names = [f"{number}" for number in range(100)]
        for name in names:
            self.store.create(draft(name))

        def take_all(racer: int) -> list[Job]:
            taken: list[Job] = []
            for _ in names:
                batch = self.store.take_due(f"lessee {racer}", 60, 7)
                if not batch:
                    break
                taken += batch
            return taken

        taken = [job for jobs in at_once([partial(take_all, racer) for racer in range(self.racers)]) for job in jobs]
        counts = Counter(job.id for job in taken)
        same(counts, Counter(names), "of several takers, each due job goes to exactly one")
        for job in taken:
            same(self.read(job.id).lessee, job.lessee, "a lease is its taker's")

    def test_reports_from_many_threads_are_all_kept(self) -> None:
        self.running()

        def report_all(racer: int) -> None:
            for number in range(12):
                text = f"{racer}:{number} ß€😀\n"
                kept(self.store.report("job", "token", Report(increment=1, output=text)), "a valid report is written")

        at_once([partial(report_all, racer) for racer in range(self.racers)])
        lines = whole_output(self.store, "job").splitlines()
        for racer in range(self.racers):
            mine = [line for line in lines if line.startswith(f"{racer}:")]
            expected = [f"{racer}:{number} ß€😀" for number in range(12)]
            same(mine, expected, "each thread's output is kept, in its order")
        job = self.read()
        same(len(lines), 12 * self.racers, "output has no gaps and no repetitions")
        same(job.progress, min(100, 12 * self.racers), "no increment is lost")
        same(job.version, 2 + 12 * self.racers, "every write raises the version by one")

    def test_an_end_among_reports_is_the_last_word(self) -> None:
        ends = (completed("done"), failed("broken"), cancelled())
        for number in range(10):
            name = f"{number}"
            self.running(name)

            def report_all(racer: int, name: str = name) -> list[str]:
                accepted = []
                for count in range(10):
                    text = f"{racer}.{count};"
                    if self.store.report(name, "token", Report(output=text)):
                        accepted.append(text)
                return accepted

            def end(index: int, name: str = name) -> list[str]:
                job = self.store.change(name, Expect(status=Status.IN_PROGRESS), ended(ends[index]))
                return [] if job is None else [job.status.name]

            calls = [partial(report_all, racer) for racer in range(3)] + [partial(end, index) for index in range(3)]
            results = at_once(calls)
            won = [status for statuses in results[3:] for status in statuses]
            same(won, [self.read(name).status.name], "of several ends one wins, and it is the one that stands")
            output = whole_output(self.store, name)
            accepted = [text for texts in results[:3] for text in texts]
            same(sorted(output.split(";")[:-1]), sorted(text[:-1] for text in accepted), "output is what was accepted")
            same(self.read(name).output_size, len(output), "output_size is the output's size")

    def test_a_reader_among_writers_sees_whole_reports(self) -> None:
        self.running()
        line = "0123456789 ß€😀\n"

        def write() -> str:
            for _ in range(60):
                self.store.report("job", "token", Report(increment=1, output=line))
            self.store.change("job", Expect(), ended(completed()))
            return ""

        def read() -> str:
            text, offset, over = "", 0, False
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                over = over or self.read().status.is_final  # before the piece: what comes after the end is nothing
                piece = self.store.output("job", offset)
                if not piece.text and over:
                    return text
                kept(len(piece.text) % len(line) == 0, "output grows by whole reports")
                text, offset = text + piece.text, piece.next_offset
            return text

        _, *texts = at_once([write, read, read])
        for text in texts:
            same(text, line * 60, "a reader that follows next_offset sees all output once, in order")

    def test_any_race_leaves_one_claim_and_one_end(self) -> None:
        @settings(max_examples=self.race_examples, deadline=None, suppress_health_check=(HealthCheck.too_slow,))
        @given(_SCRIPTS)
        def race(scripts: list[Script]) -> None:
            clock = FakeClock()
            store = self.make_store(clock)
            try:
                _run_race(store, scripts)
            finally:
                store.close()

        race()


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

_DEEDS: Final[tuple[Deed, ...]] = (_claim, _report, _end, _cancel, _take, _free)
_NAMES: Final = ("a", "b")
_SCRIPTS: Final = st.lists(
    st.lists(st.tuples(st.sampled_from(_DEEDS), st.sampled_from(_NAMES)), max_size=8), min_size=2, max_size=4
)


def _act(store: Store, token: str, script: Script) -> Log:
    return [entry for number, (deed, name) in enumerate(script) for entry in deed(store, name, token, number)]


def _run_race(store: Store, scripts: list[Script]) -> None:
    """Let each script be acted by a thread of its own, as a worker with its own token would act."""
    for name in _NAMES:
        store.create(draft(name), f"key {name}")
    logs = at_once([partial(_act, store, f"{racer}", script) for racer, script in enumerate(scripts)])
    for name in _NAMES:
        job = store.get(name)
        if job is None:
            raise AssertionError("promise broken: a job that was written is found again")
        events = [event for log in logs for job_id, event in log if job_id == name]
        claims = [event for event in events if event.startswith("claimed ")]
        kept(len(claims) <= 1, f"at most one claim wins (won: {claims})")
        same([f"claimed {job.token}"] if job.token else [], claims, "a job carries the token of the claim that won")
        ends = [event for event in events if event.startswith("ended ")]
        same(
            [f"ended {job.status.name}"] if job.status.is_final else [], ends, "a job ends once, and stays as it ended"
        )
        taken = [event for event in events if event == "taken"]
        kept(len(taken) <= 1, "a lease is given to one")
        accepted = [event.removeprefix("said ") for event in events if event.startswith("said ")]
        same(store.output(name), Output("".join(accepted), job.output_size), "output is what was accepted, in order")
        same(job.version, 1 + len(events), "every write that succeeded raised the version by one")
