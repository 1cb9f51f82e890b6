"""Processes that stall or die in the midst of writing jobs to a cache, one at a time."""

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
    """What one process sees of a cache. ``hook`` is called before each call; it may let others go first, or kill."""

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
    """The store of a process that stalls once, before this call with this key, while something else happens."""
    stalled = False

    def hook(name: str, of: str) -> None:
        nonlocal stalled
        if not stalled and name == call and of.endswith(key):
            stalled = True
            meanwhile()

    return CacheStore(Hooked(here.cache.entries, hook), clock=here.clock)


def dying(here: Surroundings, calls: int) -> CacheStore:
    """The store of a process that is killed after so many calls to the cache."""
    left = calls

    def hook(_call: str, _key: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise SystemExit("killed")

    return CacheStore(Hooked(here.cache.entries, hook), clock=here.clock)


@pytest.mark.parametrize("gone", [("j:job:2",), ("j:job:1", "j:job:2")])
def test_a_claim_that_stalled_until_the_job_was_over_and_all_traces_gone_loses(
    here: Surroundings, gone: tuple[str, ...]
) -> None:
    def meanwhile() -> None:
        assert here.store.change("job", *claimed("other")) is not None
        assert here.store.change("job", Expect(), ended(completed())) is not None
        here.cache.drop(*gone)

    here.store.create(draft())
    late = stalling(here, "add", "j:job:2", meanwhile)
    assert late.change("job", *claimed("late")) is None
    job = late.get("job")
    assert job is not None
    assert (job.status, job.token) == (Status.COMPLETED, "other")


@pytest.mark.parametrize("calls", range(9))
def test_a_claim_that_stalled_loses_though_the_winner_died_in_the_midst_of_it(here: Surroundings, calls: int) -> None:
    won = False

    def meanwhile() -> None:
        nonlocal won
        with suppress(SystemExit):
            dying(here, calls).change("job", *claimed("other"))
        won = here.store.change("job", Expect(status=Status.IN_PROGRESS), ended(completed())) is not None
        if won:
            here.cache.drop("j:job:2")

    here.store.create(draft())
    late = stalling(here, "add", "j:job:2", meanwhile)
    assert (late.change("job", *claimed("late")) is None) == won
    assert won == (calls > 4), "the claim counts from its first write on"


@pytest.mark.parametrize("calls", range(12))
def test_a_process_that_dies_in_the_midst_of_an_end_leaves_either_all_of_it_or_nothing(
    here: Surroundings, calls: int
) -> None:
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


def test_a_late_claim_whose_process_dies_before_it_looks_back_is_believed_by_nobody(here: Surroundings) -> None:
    added = False

    def hook(call: str, key: str) -> None:
        nonlocal added
        if added:
            raise SystemExit("killed")
        if call == "add" and key.endswith("j:job:2"):
            added = True
            assert here.store.change("job", *claimed("other")) is not None
            here.cache.drop("j:job:2")

    here.store.create(draft())
    with pytest.raises(SystemExit):
        CacheStore(Hooked(here.cache.entries, hook), clock=here.clock).change("job", *claimed("late"))
    assert here.store.get("job") is None
    assert here.store.report("job", "late", Report(progress=5)) is False


def test_a_head_that_was_moved_late_is_moved_on(here: Surroundings) -> None:
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


def test_who_joins_a_job_that_its_creator_has_still_to_publish_finds_it(here: Surroundings) -> None:
    def meanwhile() -> None:
        assert here.store.create(draft("second"), "key").id == "first"
        assert here.another().get("first") is not None
        assert here.store.change("first", *claimed("token")) is not None

    late = stalling(here, "add", "j:first", meanwhile)
    assert late.create(draft("first"), "key").id == "first"
    job = late.get("first")
    assert job is not None
    assert job.token == "token"


def test_who_loses_the_race_for_a_merge_key_leaves_nothing(here: Surroundings) -> None:
    late = stalling(here, "add", "m:key:1", lambda: here.store.create(draft("first"), "key"))
    job = late.create(draft("second", request=Request("POST", "/", body=b"body")), "key")
    assert job.id == "first"
    assert [key for key, entry in here.cache.entries.items() if "second" in key + entry.value] == []


@pytest.mark.parametrize("calls", range(16))
def test_a_process_that_dies_in_the_midst_of_a_start_leaves_a_key_that_others_can_have(
    here: Surroundings, calls: int
) -> None:
    with suppress(SystemExit):
        dying(here, calls).create(draft("first"), "key")
    job = here.store.create(draft("second"), "key")
    assert job.merge_key == "key"
    assert here.another().create(draft("third"), "key") == job
    assert here.another().get(job.id) == job
    assert here.another().find(Query()) == [job]


def test_a_place_that_was_taken_behind_the_readers_backs_is_changed_for_another(here: Surroundings) -> None:
    def meanwhile() -> None:
        for number in range(3):
            here.store.create(draft(f"{number}"))
            here.store.change(f"{number}", Expect(), ended(cancelled()))
        assert here.store.find(Query()) == []
        here.cache.drop(":l:")

    late = stalling(here, "add", ":0", meanwhile)
    late.create(draft())
    assert [job.id for job in here.store.find(Query())] == ["job"]
    assert [job.id for job in here.another().find(Query())] == ["job"]


def test_what_a_process_remembers_of_a_job_is_no_reason_to_refuse(here: Surroundings) -> None:
    here.running()
    assert here.another().report("job", "token", Report(progress=5))
    assert here.store.change("job", Expect(version=3), Changes(progress=6)) is not None
    assert here.another().change("job", Expect(), Changes(token="new")) is not None
    assert here.store.report("job", "token", Report(progress=7)) is False
    assert here.store.report("job", "new", Report(progress=8)) is True


@pytest.mark.parametrize("hours", [0, 1])
def test_what_a_process_remembers_of_the_living_is_not_taken_for_what_stands(here: Surroundings, hours: int) -> None:
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
