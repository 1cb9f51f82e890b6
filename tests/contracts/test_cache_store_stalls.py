"""A process that stalls or dies while it writes a job to a cache."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from backjob.lifecycle import cancelled, claimed, completed, ended
from backjob.model import Changes, Expect, Query, Report, Request, Status
from backjob.stores.cache import CacheStore
from backjob.stores.cache.chain import LINGER
from tests.contracts.cache_surroundings import Surroundings, draft
from tests.contracts.dict_cache import DictCache, Entry


@pytest.fixture
def here() -> Surroundings:
    return Surroundings()


class Hooked(DictCache):
    """A cache as one process sees it. It calls ``hook`` before each call; the hook may run others first, or raise."""

    def __init__(self, entries: dict[str, Entry], hook: Callable[[str, str], None]) -> None:
        super().__init__()
        self.entries = entries
        self._hook = hook

    def get(self, key: str, /) -> str | None:
        self._hook("get", key)
        return super().get(key)

    def set(self, key: str, value: str, timeout: int, /) -> None:
        self._hook("set", key)
        super().set(key, value, timeout)

    def add(self, key: str, value: str, timeout: int, /) -> bool:
        self._hook("add", key)
        return super().add(key, value, timeout)


def stalling(here: Surroundings, call: str, key: str, meanwhile: Callable[[], object]) -> CacheStore:
    """The store of a process that stalls once, before this call with this key, while ``meanwhile`` runs."""
    stalled = False

    def hook(name: str, of: str) -> None:
        nonlocal stalled
        if not stalled and name == call and of.endswith(key):
            stalled = True
            meanwhile()

    return CacheStore(Hooked(here.cache.entries, hook), clock=here.clock)


def dying(here: Surroundings, calls: int) -> CacheStore:
    """The store of a process that dies after ``calls`` calls to the cache."""
    left = calls

    def hook(_call: str, _key: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise SystemExit("killed")

    return CacheStore(Hooked(here.cache.entries, hook), clock=here.clock)


@pytest.mark.parametrize("gone", [("j:job:2",), ("j:job:1", "j:job:2")])
def test_a_claim_that_stalls_until_the_job_has_ended_and_its_entries_are_gone_loses(
    here: Surroundings, gone: tuple[str, ...]
) -> None:
    def meanwhile() -> None:
        assert here.store.change("job", *claimed("other", 1, 60)) is not None
        assert here.store.change("job", Expect(), ended(completed())) is not None
        here.cache.drop(*gone)

    here.store.create(draft())
    late = stalling(here, "add", "j:job:2", meanwhile)
    assert late.change("job", *claimed("late", 1, 60)) is None
    job = late.get("job")
    assert job is not None
    assert (job.status, job.token) == (Status.COMPLETED, "other")


@pytest.mark.parametrize("calls", range(9))
def test_a_stalled_claim_loses_even_if_the_winner_died_half_way(here: Surroundings, calls: int) -> None:
    won = False

    def meanwhile() -> None:
        nonlocal won
        with suppress(SystemExit):
            dying(here, calls).change("job", *claimed("other", 1, 60))
        won = here.store.change("job", Expect(status=Status.IN_PROGRESS), ended(completed())) is not None
        if won:
            here.cache.drop("j:job:2")

    here.store.create(draft())
    late = stalling(here, "add", "j:job:2", meanwhile)
    assert (late.change("job", *claimed("late", 1, 60)) is None) == won
    assert won == (calls > 4), "the claim counts from its first write on"


@pytest.mark.parametrize("calls", range(12))
def test_a_process_that_dies_while_it_ends_a_job_leaves_the_whole_end_or_none(here: Surroundings, calls: int) -> None:
    here.running()
    with suppress(SystemExit):
        dying(here, calls).change("job", Expect(), ended(completed()))
    seen = []
    for _hour in range(2):
        job = here.another().get("job")
        assert job is not None
        assert (job.request is None) == job.status.is_final
        seen.append(job.status)
        here.cache.expire(LINGER)
    assert seen == [Status.COMPLETED if calls > 4 else Status.IN_PROGRESS] * 2


def test_a_late_claim_whose_process_dies_before_its_check_does_not_count(here: Surroundings) -> None:
    added = False

    def hook(call: str, key: str) -> None:
        nonlocal added
        if added:
            raise SystemExit("killed")
        if call == "add" and key.endswith("j:job:2"):
            added = True
            assert here.store.change("job", *claimed("other", 1, 60)) is not None
            here.cache.drop("j:job:2")

    here.store.create(draft())
    with pytest.raises(SystemExit):
        CacheStore(Hooked(here.cache.entries, hook), clock=here.clock).change("job", *claimed("late", 1, 60))
    assert here.store.get("job") is None
    assert here.store.report("job", "late", Report(progress=5)) is False


def test_a_head_that_a_late_writer_moved_back_moves_on(here: Surroundings) -> None:
    here.running()

    def meanwhile() -> None:
        assert here.another().report("job", "token", Report(progress=5))
        assert here.another().report("job", "token", Report(progress=6))

    late = stalling(here, "set", "j:job", meanwhile)
    assert late.report("job", "token", Report(progress=4))
    here.cache.expire(LINGER)
    job = here.another().get("job")
    assert job is not None
    assert (job.progress, job.version) == (6, 5)


def test_a_start_joins_a_job_that_its_creator_has_not_published_yet(here: Surroundings) -> None:
    def meanwhile() -> None:
        assert here.store.create(draft("second"), "key").id == "first"
        assert here.another().get("first") is not None
        assert here.store.change("first", *claimed("token", 1, 60)) is not None

    late = stalling(here, "add", "j:first", meanwhile)
    assert late.create(draft("first"), "key").id == "first"
    job = late.get("first")
    assert job is not None
    assert job.token == "token"


def test_the_loser_of_a_race_for_a_merge_key_leaves_no_job(here: Surroundings) -> None:
    late = stalling(here, "add", "m:key:1", lambda: here.store.create(draft("first"), "key"))
    job = late.create(draft("second", request=Request("POST", "/", body=b"body")), "key")
    assert job.id == "first"
    assert [key for key, entry in here.cache.entries.items() if "second" in key + entry.value] == [
        "backjob:living:2"  # until a process that searches for jobs removes it
    ]


@pytest.mark.parametrize("calls", range(16))
def test_a_process_that_dies_during_a_start_leaves_the_merge_key_free(here: Surroundings, calls: int) -> None:
    with suppress(SystemExit):
        dying(here, calls).create(draft("first"), "key")
    job = here.store.create(draft("second"), "key")
    assert job.merge_key == "key"
    assert here.another().create(draft("third"), "key") == job
    assert here.another().get(job.id) == job
    assert here.another().find(Query()) == [job]


def test_a_job_stays_listed_when_others_rewrote_and_lost_the_list_meanwhile(here: Surroundings) -> None:
    def meanwhile() -> None:
        for number in range(40):
            here.store.create(draft(f"{number}"))
            here.store.change(f"{number}", Expect(), ended(cancelled()))
        assert here.store.find(Query()) == []
        here.cache.drop("living")

    late = stalling(here, "add", "living:1", meanwhile)
    late.create(draft())
    assert [job.id for job in here.store.find(Query())] == ["job"]
    assert [job.id for job in here.another().find(Query())] == ["job"]


def test_an_outdated_memory_of_a_job_does_not_refuse_a_write(here: Surroundings) -> None:
    here.running()
    assert here.another().report("job", "token", Report(progress=5))
    assert here.store.change("job", Expect(version=3), Changes(progress=6)) is not None
    assert here.another().change("job", Expect(), Changes(token="new")) is not None
    assert here.store.report("job", "token", Report(progress=7)) is False
    assert here.store.report("job", "new", Report(progress=8)) is True


@pytest.mark.parametrize("hours", [0, 1])
def test_find_reads_jobs_that_have_changed_since_the_process_remembered_them(here: Surroundings, hours: int) -> None:
    here.running()
    other = here.another()
    assert [job.version for job in other.find(Query())] == [2]
    for _ in range(3):
        assert here.store.report("job", "token", Report(progress=1))
    if hours:
        here.clock.advance(hours * 3600)
        here.cache.expire(LINGER)
    assert [job.version for job in other.find(Query())] == [5]
    assert here.store.change("job", Expect(), ended(completed())) is not None
    assert other.find(Query()) == []
