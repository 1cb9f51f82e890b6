"""Jobs in a cache that drops entries, is full, fails, or contains entries of other programs; and the number of calls."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from itertools import count
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from backjob.errors import InvalidRequest, StoreUnavailable
from backjob.lifecycle import Requeue, cancelled, claimed, completed, continued, ended, requeued
from backjob.model import Changes, Expect, Output, Query, Report, Request, Status
from backjob.stores.cache import CacheStore
from backjob.stores.cache.chain import LINGER
from backjob.stores.caches import FOREVER
from tests.contracts.cache_surroundings import Surroundings, draft
from tests.contracts.dict_cache import DictCache, Entry

DAY: Final = 86400
LINE: Final = "0123456789 ß€😀\n"


@pytest.fixture
def here() -> Surroundings:
    return Surroundings()


# --- dropped entries -----------------------------------------------------------------------------------


class Losses(RuleBasedStateMachine):
    """Three processes, and a cache that drops any entry between calls: no claim or end wins twice, and no call crashes."""

    JOBS = st.integers(0, 3)
    PROCESSES = st.integers(0, 2)

    def __init__(self) -> None:
        super().__init__()
        self.here = Surroundings()
        self.stores = [self.here.another() for _ in range(3)]
        self.names: list[str] = []
        self.tokens: dict[str, str] = {}
        self.runs: Counter[str] = Counter()
        """How many earlier runs each job has had."""
        self.over: set[str] = set()
        self.number = 0

    @initialize(keys=st.lists(st.sampled_from((None, "key")), min_size=4, max_size=4), body=st.binary(max_size=3))
    def begin(self, keys: list[str | None], body: bytes) -> None:
        for key in keys:
            self.create(0, key, body)

    @rule(process=PROCESSES, key=st.sampled_from((None, "key")), body=st.binary(max_size=3))
    def create(self, process: int, key: str | None, body: bytes) -> None:
        self.number += 1
        job = self.stores[process].create(draft(f"{self.number}", request=Request("POST", "/", body=body)), key)
        self.names = [*self.names, job.id][-4:]

    @rule(process=PROCESSES, job=JOBS)
    def claim(self, process: int, job: int) -> None:
        self.number += 1
        name, token = self.names[job], f"{self.number}"
        if self.stores[process].change(name, *claimed(token, self.runs[name] + 1, 60)) is not None:
            assert name not in self.tokens, "a second claim of a run has won"
            self.tokens[name] = token

    @rule(process=PROCESSES, job=JOBS)
    def claim_an_earlier_run(self, process: int, job: int) -> None:
        name = self.names[job]
        assert self.stores[process].change(name, *claimed("late", self.runs[name], 60)) is None

    @rule(process=PROCESSES, job=JOBS, requeue=st.sampled_from((continued(1), Requeue("raised", 1.0))))
    def run_again(self, process: int, job: int, requeue: Requeue) -> None:
        name = self.names[job]
        found, token = self.stores[process].get(name), self.tokens.get(name)
        if found is None or token is None:
            return
        changes = requeued(found, requeue, found.read_time)
        if self.stores[process].change(
            name, Expect(status=Status.IN_PROGRESS, token=token, version=found.version), changes
        ):
            assert name not in self.over
            del self.tokens[name]
            self.runs[name] += 1

    @rule(process=PROCESSES, job=JOBS, status=st.sampled_from((Status.STARTED, Status.IN_PROGRESS)))
    def cancel(self, process: int, job: int, status: Status) -> None:
        name = self.names[job]
        if self.stores[process].change(name, Expect(status=status), ended(cancelled())) is not None:
            assert name not in self.over, "a second end has won"
            self.over.add(name)

    @rule(process=PROCESSES, job=JOBS, lines=st.integers(0, 2))
    def report(self, process: int, job: int, lines: int) -> None:
        name = self.names[job]
        token = self.tokens.get(name, "none")
        written = self.stores[process].report(name, token, Report(output=LINE * lines))
        assert not (written and (name in self.over or name not in self.tokens))

    @rule(process=PROCESSES, job=JOBS)
    def read(self, process: int, job: int) -> None:
        store, name = self.stores[process], self.names[job]
        output = store.output(name, 3)
        found = store.get(name)
        if found is not None:
            assert found.token == self.tokens.get(name)
            assert found.status.is_final == (name in self.over)
            assert output.next_offset == max(found.output_size, 3)
        store.find(Query(overdue=True))
        store.find(Query(before=name))
        stale = store.beat(self.tokens, 60, frozenset(self.tokens))
        assert stale >= self.tokens.keys() & self.over

    @rule(process=PROCESSES, seconds=st.sampled_from((0, 1, 100, 1000)))
    def take(self, process: int, seconds: int) -> None:
        self.here.clock.advance(seconds)
        for job in self.stores[process].take_due("me", 60, 2):
            assert job.id not in self.tokens
            assert job.id not in self.over

    @rule(numbers=st.lists(st.integers(0, 100), min_size=1, max_size=5))
    def drop(self, numbers: list[int]) -> None:
        for number in numbers:
            keys = sorted(self.here.cache.entries)
            if keys:
                self.here.cache.delete(keys[number % len(keys)])

    @rule()
    def an_hour_passes(self) -> None:
        self.here.cache.expire(LINGER)

    @rule(process=PROCESSES)
    def a_process_starts(self, process: int) -> None:
        self.stores[process] = self.here.another()


class TestLosses:
    examples = 15

    def test_no_claim_and_no_end_wins_twice_whatever_entries_are_dropped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        names = count()  # no random names, so that a failing sequence fails again
        monkeypatch.setattr("secrets.token_hex", lambda size: f"{next(names):0{2 * size}x}")
        quietly = settings(
            max_examples=self.examples, stateful_step_count=40, deadline=None,
            suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
        )  # fmt: skip
        run_state_machine_as_test(Losses, settings=quietly)


@pytest.mark.nightly
class TestLossesAtLength(TestLosses):
    examples = 2000


def test_a_job_whose_newest_entry_is_dropped_is_unknown_from_then_on(here: Surroundings) -> None:
    here.running()
    here.cache.drop("j:job:2")
    for store in (here.store, here.another()):
        assert store.get("job") is None
        assert store.change("job", *claimed("second", 1, 60)) is None
        assert store.report("job", "token", Report(output="x")) is False
        assert store.take_due("me", 60, 5) == []
        assert store.find(Query()) == []
        assert store.output("job") == Output("", 0)
    assert here.store.get("job") is None


# --- parts of a job that are missing -----------------------------------------------------------------------------------------


def test_dropped_output_reads_as_question_marks_of_the_same_length(here: Surroundings) -> None:
    here.running()
    for _ in range(100):
        here.store.report("job", "token", Report(output=LINE))
    size = len(LINE.encode())
    chunk = next(key for key in here.cache.entries if "o:job:" in key)
    del here.cache.entries[chunk]
    output = here.another().output("job")
    assert output.text.count("?") == size
    assert output == Output(output.text, 100 * size, truncated=True)
    here.cache.drop("p:job:1")  # the second page
    output = here.another().output("job")
    assert output.text.count("?") == size * 33
    assert (output.text[-len(LINE) :], output.next_offset) == (LINE, 100 * size)
    assert here.store.output("job", 40 * size, 4).text == "????"
    assert here.store.output("job", 99 * size) == Output(LINE, 100 * size)


def test_without_its_request_body_a_waiting_job_is_not_delivered_and_a_running_one_continues(
    here: Surroundings,
) -> None:
    for name in ("waiting", "running"):
        here.store.create(draft(name, request=Request("POST", "/work", body=b"body")))
    here.store.change("running", *claimed("token", 1, 60))
    here.cache.drop("o:")
    assert here.store.get("waiting", body=True) is None
    assert here.store.take_due("me", 60, 5) == []
    job = here.store.get("running")
    assert job is not None
    assert job.request == Request("POST", "/work")
    assert here.store.report("running", "token", Report(output="on"))


def test_a_lost_list_of_unfinished_jobs_is_restored_from_memory(here: Surroundings) -> None:
    here.running(error_timeout=10)
    assert [job.id for job in here.store.find(Query())] == ["job"]
    here.cache.drop("living")
    other = here.another()
    here.clock.advance(1)
    other.create(draft("new"))
    assert [job.id for job in other.find(Query())] == ["new"]
    assert [job.id for job in here.store.find(Query())] == ["new", "job"]
    assert [job.id for job in other.find(Query())] == ["new", "job"]


@pytest.mark.parametrize(
    "garbage", ["", "null", "[]", "{}", "7", "[1,2]", '["",0]', "x" * 100, '["0123456789abcdef",]']
)
def test_an_entry_of_another_program_is_not_a_job(here: Surroundings, garbage: str) -> None:
    here.store.create(draft(), "key")
    here.store.change("job", *claimed("token", 1, 60))
    here.store.report("job", "token", Report(output="x"))
    for key in here.cache.entries:
        here.cache.entries[key] = Entry(garbage, 10)
    store = here.another()
    assert store.get("job") is None
    assert store.find(Query()) == []
    assert store.take_due("me", 60, 5) == []
    assert store.change("job", *claimed("token", 1, 60)) is None
    assert store.purge(1, 1) == 0


# --- a cache that is full, or fails ---------------------------------------------------------------------------------


class Full(DictCache):
    """A cache that adds no new entry and returns False, as some do."""

    full = False

    def add(self, key: str, value: str, timeout: int, /) -> bool:
        return not self.full and super().add(key, value, timeout)


def test_a_full_cache_raises_store_unavailable() -> None:
    cache = Full()
    here = Surroundings(cache)
    here.running()
    cache.full = True
    for write in (
        lambda: here.store.create(draft("other")),
        lambda: here.store.create(draft("other"), "key"),
        lambda: here.store.change("job", Expect(), Changes(progress=5)),
        lambda: here.store.report("job", "token", Report(progress=5)),
    ):
        with pytest.raises(StoreUnavailable, match="no new entry"):
            write()
    cache.full = False
    assert here.store.report("job", "token", Report(progress=5))
    assert here.store.create(draft("other"), "key").id == "other"


def test_an_error_of_the_cache_becomes_store_unavailable_without_its_text(
    here: Surroundings,
) -> None:
    class Failing(DictCache):
        def get(self, key: str, /) -> str | None:
            raise OSError("redis://user:password@host refused")

    store = CacheStore(Failing(), clock=here.clock)
    with pytest.raises(StoreUnavailable) as raised:
        store.get("job")
    assert "password" not in str(raised.value)
    assert isinstance(raised.value.__cause__, OSError)


def test_a_cache_that_returns_bytes_works(here: Surroundings) -> None:
    class Raw(DictCache):
        def get(self, key: str, /) -> Any:
            value = super().get(key)
            return None if value is None else value.encode()

    there = Surroundings(Raw())
    there.running()
    there.store.report("job", "token", Report(output=LINE))
    assert there.another().output("job").text == LINE


# --- timeouts, number of calls ---------------------------------------------------------------------------------


def timeout_of(here: Surroundings, job_id: str) -> int:
    """How long the cache keeps the newest version of a job."""
    return max(
        entry.timeout for key, entry in here.cache.entries.items() if f"j:{job_id}:" in key and "was" not in entry.value
    )


@pytest.mark.parametrize(
    ("ages", "end", "expected"),
    [
        ((30 * DAY, 60 * DAY), completed(), 30 * DAY),
        ((30 * DAY, 60 * DAY), cancelled(), 60 * DAY),
        ((0, 60 * DAY), completed(), 60 * DAY),
        ((30 * DAY, 0), cancelled(), FOREVER),
        ((0, 0), completed(), FOREVER),
    ],
)
def test_an_ended_job_is_kept_for_its_age(
    here: Surroundings, ages: tuple[float, float], end: Any, expected: int
) -> None:
    assert here.another().purge(*ages) == 0, "the age is shared with all processes"
    here.running()
    here.store.change("job", Expect(), ended(end))
    assert timeout_of(here, "job") == expected


def test_an_end_does_not_expire_before_the_version_it_follows(here: Surroundings) -> None:
    here.store.purge(1, 1)
    here.running(due=3 * DAY, error_timeout=2 * DAY, expires=50 * DAY)
    living = timeout_of(here, "job")
    assert living >= 5 * DAY
    here.store.change("job", Expect(), ended(completed()))
    assert timeout_of(here, "job") >= living


def test_each_version_of_a_job_is_kept_for_longer_than_the_one_before(here: Surroundings) -> None:
    """Whatever a version forgets, such as a lease or the moment at which the job expires: the one before would reappear."""
    until = 0.0

    def check() -> None:
        nonlocal until
        now = here.clock.now().timestamp()
        assert now + timeout_of(here, "job") >= until
        until = now + timeout_of(here, "job")

    here.store.create(draft(expires=50 * DAY, error_timeout=0, lessee="me", lease=DAY, retries=5))
    check()
    for run in (1, 2, 3):
        here.store.change("job", Expect(unclaimed=True), Changes(deliver_by=20 * DAY, lease=10))
        check()
        assert here.store.change("job", *claimed("token", run, 60)) is not None
        check()
        here.clock.advance(5)
        assert here.store.beat({"job": "token"}, 60, frozenset()) == frozenset()
        check()
        assert here.store.report("job", "token", Report(cursor=run))
        check()
        job = here.store.get("job")
        assert job is not None
        requeue = continued() if run == 1 else Requeue("raised", 0.5)
        assert here.store.change("job", Expect(token="token"), requeued(job, requeue, job.read_time)) is not None
        check()
        here.clock.advance(1)
    here.store.purge(1, 1)
    here.store.change("job", Expect(), ended(completed()))
    check()


def test_a_job_waits_for_days_and_runs_without_a_time_limit(here: Surroundings) -> None:
    here.store.create(draft(error_timeout=0))
    assert timeout_of(here, "job") >= 3 * DAY
    here.store.change("job", *claimed("token", 1, 18))
    assert timeout_of(here, "job") >= 3 * DAY


def test_a_beat_takes_five_calls_for_each_job_and_keeps_the_version(here: Surroundings) -> None:
    names = [f"{number}" for number in range(20)]
    for name in names:
        here.running(name)
    here.clock.advance(30)
    before = here.store.get("3")
    here.calls()
    assert here.store.beat(dict.fromkeys(names, "token"), 60, frozenset({"3"})) == frozenset()
    assert here.calls() == 5 * 20
    after = here.another().get("3")
    assert before is not None
    assert after is not None
    assert (after.version, after.updated_time) == (before.version, here.clock.now())
    assert after.lease_until == here.clock.now() + timedelta(seconds=60)
    other = here.another().get("4")
    assert other is not None
    assert other.updated_time == here.clock.now() - timedelta(seconds=30)


@pytest.mark.parametrize("is_slice", [True, False])
def test_a_waiting_job_whose_body_is_lost_is_not_sent_in_any_run(here: Surroundings, is_slice: bool) -> None:
    here.running(request=Request("POST", "/", body=b"body"), retries=1)
    job = here.store.get("job")
    assert job is not None
    requeue = continued() if is_slice else Requeue("raised", 0.0)
    assert here.store.change("job", Expect(token="token"), requeued(job, requeue, job.read_time)) is not None
    here.cache.drop("o:job")
    assert here.another().get("job", body=True) is None
    assert here.another().take_due("me", 60, 5) == []


def test_a_full_queue_is_skipped(here: Surroundings) -> None:
    here.store.create(draft("first", queue="exports"))
    here.store.create(draft("second"))
    assert [job.id for job in here.store.take_due("me", 60, 5, None, frozenset({"exports"}))] == ["second"]
    assert [job.id for job in here.another().take_due("me", 60, 5)] == ["first"]


def test_a_very_long_error_timeout_gives_a_timeout_that_caches_accept(here: Surroundings) -> None:
    here.running(error_timeout=1e11)
    assert timeout_of(here, "job") <= FOREVER


def test_a_report_takes_the_same_number_of_calls_however_much_output_there_is(here: Surroundings) -> None:
    here.running()
    costs = []
    for _ in range(1000):
        here.calls()
        assert here.store.report("job", "token", Report(output=LINE))
        costs.append(here.calls())
    assert set(costs[1:]) == {costs[1], costs[1] + 1}, "one more call when a page is full"
    assert costs.count(costs[1] + 1) == 31
    newest = max(len(entry.value) for key, entry in here.cache.entries.items() if "j:job:" in key)
    assert newest < 3000, "a version's size does not grow with the output"
    offset = 700 * len(LINE.encode())
    assert here.store.output("job", offset, 16).text in LINE * 2
    assert here.calls() < 20


def test_polling_for_due_jobs_takes_the_same_number_of_calls_however_many_jobs_have_ended(here: Surroundings) -> None:
    here.running("old")
    costs = []
    for number in range(1200):
        here.store.create(draft(f"{number}"))
        here.store.change(f"{number}", Expect(), ended(cancelled()))
        if number % 20 == 0:
            here.store.find(Query(overdue=True))
            here.calls()
            assert here.store.take_due("me", 60, 5) == []
            costs.append(here.calls())
    assert max(costs[1:]) <= 8
    here.calls()
    assert [job.id for job in here.another().find(Query())] == ["old"]
    assert here.calls() < 500, "a new process does not read jobs that ended long ago"


def test_a_listed_job_that_was_never_written_is_dropped_from_the_list_after_a_while(here: Surroundings) -> None:
    here.store.create(draft())
    here.cache.drop("j:job")
    assert here.store.find(Query()) == []
    here.clock.advance(timedelta(minutes=2).total_seconds())
    assert here.store.find(Query()) == []
    here.calls()
    assert here.store.find(Query()) == []
    assert here.calls() <= 3


def test_a_duplicate_id_is_refused_and_leaves_no_entries(here: Surroundings) -> None:
    here.store.create(draft())
    before = {key for key in here.cache.entries if "living" not in key}
    with pytest.raises(InvalidRequest, match="id"):
        here.store.create(draft(request=Request("POST", "/", body=b"body")), "key")
    assert {key for key in here.cache.entries if "living" not in key} == before
