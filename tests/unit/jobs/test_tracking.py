"""`track` with ``resume``: which items a loop yields in which run, and what its bar shows."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from backjob import Status
from backjob.errors import InvalidRequest, JobContinued, JobEnded, StoreUnavailable
from backjob.jobs import BackJob
from backjob.model import Changes, Expect, Job, JsonValue
from backjob.worker.outcomes import Outcome
from tests.unit.core import bench, served
from tests.unit.jobs.slicing import Slicing, slicing

TEN = list(range(10))


def letters(count: int = 10) -> Iterator[int]:
    yield from range(count)


async def async_letters(count: int = 10) -> AsyncIterator[int]:
    for number in range(count):
        yield number


class AsyncSized:
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __aiter__(self) -> AsyncIterator[int]:
        return async_letters(self.count)


SOURCES: dict[str, Callable[[], Iterable[int]]] = {
    "list": lambda: TEN,
    "range": lambda: range(10),
    "deque": lambda: deque(TEN),
    "dict": lambda: dict.fromkeys(TEN),
    "dict view": lambda: dict.fromkeys(TEN).keys(),
    "iterator": letters,
}
ASYNC_SOURCES: dict[str, Callable[[], Any]] = {**SOURCES, "async": async_letters, "async sized": lambda: AsyncSized(10)}


class Importing:
    """A job that loops over items and notes them; the test says after which item the slice's time is up or it crashes."""

    def __init__(self, source: Callable[[], Any], *, is_async: bool = False, **track: Any) -> None:
        self.source = source
        self.track: dict[str, Any] = {"resume": True, **track}
        self.runs: list[list[int]] = []
        self.time_up_at: set[int] = set()
        self.crash_at: set[int] = set()
        self.after_item: Callable[[int], object] = lambda item: None
        self.work: Slicing = slicing(self._act_async if is_async else self._act, retries=self.track.pop("retries", 0))

    def _act(self, jobs: BackJob) -> None:
        self.runs.append([])
        for item in jobs.track(self.source(), **self.track):
            self._note(item)

    async def _act_async(self, jobs: BackJob) -> None:
        self.runs.append([])
        async for item in jobs.atrack(self.source(), **self.track):
            self._note(item)

    def _note(self, item: int) -> None:
        if item in self.crash_at:
            self.crash_at.remove(item)
            raise ValueError(f"broken at {item}")
        self.runs[-1].append(item)
        self.after_item(item)
        if item in self.time_up_at:
            self.work.pass_time()

    def run(self) -> Job:
        return self.work.run()


def each(sources: Mapping[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("source", sources.values(), ids=sources.keys())


@each(SOURCES)
def test_a_loop_hands_over_between_two_items_once_the_time_is_up(source: Callable[[], Any]) -> None:
    importing = Importing(source)
    importing.time_up_at = {3, 7}
    assert importing.run().status is Status.IN_PROGRESS
    assert isinstance(importing.work.error, JobContinued)
    job = importing.work.run_to_the_end()
    assert importing.runs == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert (job.status, job.attempt, job.run) == (Status.COMPLETED, 1, 3)


@each(ASYNC_SOURCES)
def test_so_does_the_async_twin(source: Callable[[], Any]) -> None:
    importing = Importing(source, is_async=True)
    importing.time_up_at = {3, 7}
    assert importing.work.run_to_the_end().status is Status.COMPLETED, importing.work.job.status_text
    assert importing.runs == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("is_async", [False, True])
@each({"list": lambda: TEN, "iterator": letters})
def test_a_loop_never_hands_over_after_its_last_item(source: Callable[[], Any], is_async: bool) -> None:
    importing = Importing(source, is_async=is_async)
    importing.time_up_at = {9}
    assert importing.run().status is Status.COMPLETED


def test_each_slice_completes_an_item_even_if_it_has_no_time() -> None:
    seen: list[list[int]] = []

    def action(jobs: BackJob) -> None:
        assert jobs.time_left == 0
        seen.append([])
        for item in jobs.track(range(4), resume=True):
            seen[-1].append(item)

    assert slicing(action, slice_time=0).run_to_the_end().status is Status.COMPLETED
    assert seen == [[0], [1], [2], [3]]


def test_while_the_process_drains_the_loop_hands_over_at_the_next_item() -> None:
    importing = Importing(lambda: TEN)

    def drain(item: int) -> None:
        importing.work.world.engine.draining.is_on = item == 2

    importing.after_item = drain
    assert importing.run().status is Status.IN_PROGRESS
    importing.work.world.engine.draining.is_on = False
    importing.after_item = lambda item: None
    assert importing.run().status is Status.COMPLETED
    assert importing.runs == [[0, 1, 2], TEN[3:]]


@pytest.mark.parametrize("is_async", [False, True])
@each({"list": lambda: TEN, "iterator": letters})
def test_after_an_error_the_item_in_hand_is_repeated_and_no_other(source: Callable[[], Any], is_async: bool) -> None:
    importing = Importing(source, is_async=is_async, retries=1)
    importing.crash_at = {4, 7}  # two failures with one retry: the first had got on
    importing.run()
    importing.work.pass_time(100)
    importing.run()
    importing.work.pass_time(100)
    assert importing.run().status is Status.COMPLETED
    assert importing.runs == [TEN[:4], TEN[4:7], TEN[7:]]


def test_a_loop_that_fails_at_the_same_item_again_and_again_uses_up_its_retries() -> None:
    importing = Importing(lambda: [0, 1, 2], retries=2)
    importing.after_item = lambda item: 1 / 0 if item == 1 else None
    for _ in range(4):
        importing.work.run()
        importing.work.pass_time(1000)
        if importing.work.job.status.is_final:
            break
    assert importing.work.job.status is Status.FAILED
    assert importing.runs == [[0, 1], [1], [1]]


def test_each_saves_every_item_before_the_next_one_is_yielded() -> None:
    importing = Importing(lambda: TEN, resume="each")
    seen: list[int] = []

    def crash(item: int) -> None:
        seen.append(place(importing.work.job))
        if item == 5:
            raise SystemExit

    importing.after_item = crash
    importing.run()
    assert seen == [0, 1, 2, 3, 4, 5]
    assert place(importing.work.job) == 5


def test_each_is_refused_where_it_would_block_the_event_loop() -> None:
    async def action(jobs: BackJob) -> None:
        for _ in jobs.track(TEN, resume="each"):
            pass

    job = slicing(action).run()
    assert job.status is Status.FAILED
    assert "use async for … in jobs.atrack(…)" in (job.status_text or "")


@pytest.mark.parametrize("is_async", [False, True])
def test_each_waits_for_a_store_that_fails_for_a_moment(is_async: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    importing = Importing(lambda: range(3), is_async=is_async, resume="each")
    store = importing.work.world.store.store
    report, failures, saved = store.report, list[int](), list[int]()

    def fails_once_for_each_item(*arguments: Any) -> bool:
        if len(failures) < len(importing.runs[-1]):
            failures.append(1)
            raise StoreUnavailable("locked")
        return report(*arguments)

    monkeypatch.setattr(store, "report", fails_once_for_each_item)
    importing.after_item = lambda item: saved.append(place(importing.work.job))
    assert importing.run().status is Status.COMPLETED
    assert (saved, len(failures)) == ([0, 1, 2], 3)


def place(job: Job, name: str = "") -> int:
    """How many items of a loop are done, as the store has it."""
    cursor: Any = job.cursor
    return 0 if cursor is None else int(cursor.get("loops", {}).get(name, [0])[0])


@each({"list": list, "tuple": tuple, "dict": dict.fromkeys})
def test_another_length_ends_the_job_saying_both(source: Callable[[Iterable[int]], Any]) -> None:
    importing = Importing(lambda: source(TEN), resume="invoices", retries=5)
    importing.time_up_at = {3}
    importing.run()
    importing.source = lambda: source(TEN[:-1])
    job = importing.run()
    assert job.status is Status.FAILED
    assert job.status_text is not None
    assert "'invoices' had 10 items when it began, and now it has 9" in job.status_text


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("source", [list, deque])
@pytest.mark.parametrize(("change", "length"), [("append", 11), ("remove", 9)])
def test_a_sequence_that_the_action_changes_in_the_loop_ends_the_job_instead_of_skipping_items(
    source: Callable[[Iterable[int]], Any], change: str, length: int, is_async: bool
) -> None:
    items = source(TEN)
    importing = Importing(lambda: items, is_async=is_async, retries=3)
    importing.after_item = lambda item: getattr(items, change)(item) if item == 9 else None
    job = importing.run()
    assert (job.status, importing.runs) == (Status.FAILED, [TEN])
    assert f"had 10 items when it began, and now it has {length}" in (job.status_text or "")


@pytest.mark.parametrize("is_async", [False, True])
def test_an_iterator_that_has_become_too_short_ends_the_job(is_async: bool) -> None:
    importing = Importing(letters, is_async=is_async)
    importing.time_up_at = {3}
    importing.run()
    importing.source = lambda: letters(2)
    job = importing.run()
    assert (job.status, importing.runs[1]) == (Status.FAILED, [])
    assert "has 4 items done, and now it has only 2" in (job.status_text or "")


def test_a_set_is_refused_as_its_order_differs_between_processes() -> None:
    job = Importing(lambda: set(TEN)).run()
    assert job.status is Status.FAILED
    assert "sorted" in (job.status_text or "")


def test_the_bar_never_goes_back_and_ends_at_100() -> None:
    importing = Importing(lambda: TEN, retries=1)
    importing.time_up_at = {1, 4, 6}
    importing.crash_at = {7}
    for _ in range(5):
        importing.run()
        importing.work.pass_time(1000)
    assert importing.work.bars == [20, 50, 70, 70, 100]


def test_a_given_total_is_the_bars() -> None:
    importing = Importing(letters, total=20)
    importing.time_up_at = {4}
    assert importing.run().progress == 25


def test_an_iterator_without_a_total_moves_no_bar() -> None:
    importing = Importing(letters)
    importing.time_up_at = {4}
    assert importing.run().progress == 0


# --- several loops ----------------------------------------------------------------------------------------------------


def test_a_loop_that_is_over_is_skipped_in_later_runs() -> None:
    seen: list[tuple[str, int]] = []

    def action(jobs: BackJob) -> None:
        seen.extend(("first", item) for item in jobs.track(letters(2), resume="first"))
        for item in jobs.track(letters(3), resume="second"):
            seen.append(("second", item))
            work.pass_time()

    work = slicing(action)
    assert work.run_to_the_end().run == 3
    assert seen == [("first", 0), ("first", 1), ("second", 0), ("second", 1), ("second", 2)]


def test_two_loops_without_names_are_refused_instead_of_skipping_the_second() -> None:
    def action(jobs: BackJob) -> None:
        list(jobs.track(TEN, resume=True))
        list(jobs.track(TEN, resume=True))

    job = slicing(action).run()
    assert job.status is Status.FAILED
    assert "give each its own name" in (job.status_text or "")


def test_a_loop_within_the_item_of_another_one_begins_anew_with_each_item() -> None:
    seen: list[tuple[int, int]] = []

    def action(jobs: BackJob) -> None:
        for outer in jobs.track(range(3), resume="customers"):
            for inner in jobs.track(range(outer + 1), resume="invoices"):
                seen.append((outer, inner))
                work.pass_time()

    work = slicing(action)
    assert work.run_to_the_end().status is Status.COMPLETED, work.job.status_text
    assert seen == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
    assert work.bars == sorted(work.bars)


@pytest.mark.parametrize("slices", [False, True])
def test_a_loop_within_two_others_begins_anew_with_each_item_of_both(slices: bool) -> None:
    seen: list[tuple[int, int, int]] = []

    def action(jobs: BackJob) -> None:
        for customer in jobs.track(range(3), resume="customers"):
            for order in jobs.track(range(2), resume="orders"):
                for line in jobs.track(range(2), resume="lines"):
                    seen.append((customer, order, line))
                    if slices:
                        work.pass_time()
                if customer == 0 or order == 1:
                    break

    expected = [(0, 0, 0), (0, 0, 1), *[(one, two, three) for one in (1, 2) for two in (0, 1) for three in (0, 1)]]
    work = slicing(action)
    assert work.run_to_the_end().status is Status.COMPLETED, work.job.status_text
    assert seen == expected


def test_a_loop_within_another_one_continues_where_an_earlier_version_left_it() -> None:
    seen: list[tuple[int, int]] = []

    def action(jobs: BackJob) -> None:
        for outer in jobs.track(range(3), resume="customers"):
            seen.extend((outer, inner) for inner in jobs.track(range(3), resume="invoices"))

    work = slicing(action)
    loops: JsonValue = {"customers": [1, 3, None, False, None], "invoices": [2, 3, None, False, ["customers", 1]]}
    store = work.world.engine.store
    assert store.change(work.id, Expect(), Changes(cursor={"cursor": None, "loops": loops})) is not None
    assert work.run().status is Status.COMPLETED, work.job.status_text
    assert seen == [(1, 2), (2, 0), (2, 1), (2, 2)]


@pytest.mark.parametrize("name", [True, "rows"])
def test_a_loop_within_another_one_of_the_same_name_is_refused(name: bool | str) -> None:
    def action(jobs: BackJob) -> None:
        for _ in jobs.track(range(3), resume=name):
            for _ in jobs.track(range(3), resume="between"):
                list(jobs.track(range(2), resume=name))

    job = slicing(action).run()
    assert job.status is Status.FAILED
    assert "give each its own name" in (job.status_text or "")


def test_a_loop_of_an_item_that_is_done_is_forgotten() -> None:
    def action(jobs: BackJob) -> None:
        for customer in jobs.track(range(250), resume="customers"):
            list(jobs.track(range(2), resume=f"invoices of {customer}"))
            assert len(cursor_of(jobs)["loops"]) <= 2

    assert slicing(action).run().status is Status.COMPLETED


def test_the_place_of_a_loop_within_an_item_means_nothing_outside_of_it() -> None:
    def action(jobs: BackJob) -> None:
        for _ in jobs.track(range(3), resume="customers"):
            for invoice in jobs.track(range(3), resume="invoices"):
                if invoice == 2:
                    break
            break
        assert list(jobs.track(range(3), resume="invoices")) == [0, 1, 2]

    work = slicing(action)
    assert work.run().status is Status.COMPLETED, work.job.status_text


def cursor_of(jobs: BackJob) -> Any:
    running = jobs._running()
    assert running is not None
    return running.cursor


def test_more_than_100_loops_are_refused() -> None:
    def action(jobs: BackJob) -> None:
        for number in range(200):
            list(jobs.track([1], resume=f"loop {number}"))

    job = slicing(action).run()
    assert job.status is Status.FAILED
    assert "100" in (job.status_text or "")


def test_the_actions_own_cursor_and_the_loops_are_kept_apart() -> None:
    def action(jobs: BackJob) -> None:
        before: Any = jobs.cursor or 0
        for _ in jobs.track(range(3), resume=True):
            before += 1
            jobs.checkpoint(before)
            work.pass_time()
        assert jobs.cursor == 3

    work = slicing(action)
    assert work.run_to_the_end().status is Status.COMPLETED, work.job.status_text


# --- leaving a loop ---------------------------------------------------------------------------------------------------


def test_the_item_at_which_a_loop_is_left_is_not_done() -> None:
    def action(jobs: BackJob) -> None:
        for item in jobs.track(TEN, resume=True):
            if item == 4:
                break
        jobs.continue_later("left")

    work = slicing(action)
    assert place(work.run()) == 4


def leave_one_loop_for_another(jobs: BackJob) -> None:
    for _ in jobs.track(TEN, resume="first"):
        break
    for _ in jobs.track(range(4), resume="second"):
        pass
    assert cursor_of(jobs)["loops"]["second"][-1] is None


async def leave_one_loop_for_another_async(jobs: BackJob) -> None:
    async for _ in jobs.atrack(TEN, resume="first"):
        break  # the generator is not closed before the event loop's next turn
    async for _ in jobs.atrack(range(4), resume="second"):
        pass
    assert cursor_of(jobs)["loops"]["second"][-1] is None


@pytest.mark.parametrize("action", [leave_one_loop_for_another, leave_one_loop_for_another_async])
def test_a_loop_that_was_left_does_not_enclose_the_next_one(action: Callable[[BackJob], Any]) -> None:
    work = slicing(action)
    assert work.run().status is Status.COMPLETED, work.job.status_text


def test_a_cancelled_job_ends_its_loop() -> None:
    importing = Importing(lambda: TEN)

    def cancel(item: int) -> None:
        if item == 3:
            importing.work.jobs.cancel(importing.work.id)
            running = importing.work.jobs._running()
            assert running is not None
            running.flush()
            running.ended = True

    importing.after_item = cancel
    assert importing.run().status is Status.CANCELLED
    assert isinstance(importing.work.error, JobEnded)
    assert importing.runs == [[0, 1, 2, 3]]


# --- outside, and arguments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resume", ["", 1, None, b"x", "n" * 101])
@pytest.mark.parametrize("method", ["track", "atrack"])
def test_an_invalid_resume_is_refused_at_once(method: str, resume: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        getattr(bench().jobs, method)(TEN, resume=resume)
    assert caught.value.argument == "resume"


@pytest.mark.parametrize("total", [math.nan, "10", object(), 1j])
@pytest.mark.parametrize("method", ["track", "atrack"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_total_that_is_no_number_is_refused_at_once(method: str, total: Any, resume: bool) -> None:
    with pytest.raises(InvalidRequest) as caught:
        getattr(bench().jobs, method)(TEN, total=total, resume=resume)
    assert caught.value.argument == "total"


def test_in_the_foreground_everything_runs_to_the_end() -> None:
    jobs = bench(clock=None).jobs
    with served():
        assert list(jobs.track(letters(), resume="each")) == TEN
        assert list(jobs.track({1}, resume=True)) == [1]


def test_a_loop_without_resume_hands_nothing_over_and_saves_no_cursor() -> None:
    importing = Importing(lambda: TEN, resume=False)
    importing.time_up_at = set(TEN)
    job = importing.run()
    assert (job.status, job.run) == (Status.COMPLETED, 1)
    assert importing.runs == [TEN]


@pytest.mark.parametrize("where", ["start", "item"])
def test_a_loop_refuses_an_open_transaction(where: str) -> None:
    importing = Importing(lambda: TEN)
    engine: Any = importing.work.world.engine
    open_in: list[str | None] = ["default" if where == "start" else None]
    engine.in_transaction = lambda: open_in[0]
    importing.after_item = lambda item: open_in.__setitem__(0, "default" if item == 2 else None)
    job = importing.run()
    assert job.status is Status.FAILED
    assert "non_atomic_requests" in (job.status_text or "")
    assert place(job) == 0
    assert importing.runs == ([[]] if where == "start" else [[0, 1, 2]])


@pytest.mark.parametrize("method", ["checkpoint", "continue_later"])
def test_a_cursor_is_refused_in_an_open_transaction(method: str) -> None:
    def action(jobs: BackJob) -> None:
        engine: Any = work.world.engine
        engine.in_transaction = lambda: "default"
        with pytest.raises(InvalidRequest, match="non_atomic_requests"):
            getattr(jobs, method)(5)
        if method == "continue_later":
            with pytest.raises(InvalidRequest, match="non_atomic_requests"):
                jobs.continue_later()
        assert jobs.cursor is None

    work = slicing(action)
    assert work.run().status is Status.COMPLETED, work.job.status_text


class Rows:
    """A query of rows by key; ``left`` shrinks as the action works."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.left = sorted(keys)
        self.counted = 0

    def count(self) -> int:
        self.counted += 1
        return len(self.left)

    def page(self, after: JsonValue) -> Sequence[tuple[JsonValue, str]]:
        return [(key, key) for key in self.left if not isinstance(after, str) or key > after][:3]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_query_continues_by_its_key_and_keeps_its_first_count(is_async: bool) -> None:
    rows = Rows("abcdefgh")
    importing = Importing(lambda: "query", is_async=is_async)
    engine: Any = importing.work.world.engine
    engine.keyed = lambda found: rows if found == "query" else None
    seen: list[Any] = []

    def after(item: Any) -> None:
        seen.append(item)
        rows.left.remove(item)  # the filter no longer matches
        if item in "cf":
            importing.work.pass_time()

    importing.after_item = after
    assert importing.work.run_to_the_end().status is Status.COMPLETED, importing.work.job.status_text
    assert "".join(seen) == "abcdefgh"
    assert len(importing.runs) == 3
    assert importing.work.bars == [37, 75, 100]
    assert rows.counted == 1


def test_the_cost_of_a_loop_is_a_write_each_tenth_of_a_second() -> None:
    importing = Importing(lambda: range(1000))
    importing.run()
    assert importing.work.world.store.count("report") <= 1


def test_a_loop_that_is_left_shows_the_items_that_are_done() -> None:
    world = bench()
    running = world.run()
    with running.active():
        for item in world.jobs.track(range(100)):
            if item == 85:
                break
    world.engine.worker.end(running, Outcome(404, "Not Found"))
    assert world.job(running.job.id).progress == 85
