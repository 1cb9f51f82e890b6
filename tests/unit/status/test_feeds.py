"""A job as its watcher sees it: what a look reads, and what stands ready for streams afterwards."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from attrs import define, evolve, field

from backjob.model import Job, JobState, Output, Status
from backjob.status.feeds import PIECE, Feed, Source
from backjob.stores.values import output_piece

NOON: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)


@define
class FakeStore:
    """One job and its output; ``reads`` are (offset, limit) of what was read of that."""

    job: Job = field(
        factory=lambda: Job(
            id="job1",
            status=Status.IN_PROGRESS,
            status_text="Working",
            created_time=NOON,
            start_time=NOON,
            deliver_by=NOON,
            updated_time=NOON,
            read_time=NOON,
        )
    )
    output: bytes = b""
    reads: list[tuple[int, int]] = field(factory=list)

    def write(self, text: str = "", *, visible: bool = True, **changes: Any) -> None:
        """A report; output that is not ``visible`` is told by the job, and can't be read yet."""
        added = text.encode()
        self.output += added if visible else b""
        self.job = evolve(
            self.job,
            version=self.job.version + 1,
            output_size=self.job.output_size + len(added),
            updated_time=self.job.updated_time + timedelta(seconds=1),
            **changes,
        )

    def source(self) -> Source:
        return Source(lambda _: self.job, state_of, self._read, lambda: None)

    def _read(self, _job_id: str, offset: int, limit: int) -> Output:
        self.reads.append((offset, limit))
        return output_piece(self.output[offset:], offset, limit, truncated=False)


def state_of(job: Job) -> JobState:
    return JobState(
        id=job.id,
        status=job.status,
        progress=job.progress,
        status_text=job.status_text or "",
        start_time=job.start_time,
        updated_time=job.updated_time,
        end_time=job.end_time,
        result=job.result,
        owner=job.owner,
        scope=job.scope,
    )


def test_a_look_at_a_job_that_has_not_changed_reads_the_job_alone() -> None:
    store, feed = FakeStore(), Feed("job1", 0.0)
    store.write("x" * 100)
    assert feed.look(store.source(), 0.0, 0)
    seen = feed.seen
    store.reads.clear()
    assert not feed.look(store.source(), 1.0, 0)
    assert (feed.seen, store.reads) == (seen, [])


def test_a_first_look_reads_from_where_the_first_client_is_unless_that_is_far_behind() -> None:
    store = FakeStore()
    store.write("x" * 5 * PIECE)
    for offset, reads in ((5 * PIECE - 10, 1), (2 * PIECE, 3), (0, 0), (5 * PIECE + 1, 0)):
        feed = Feed("job1", 0.0)
        store.reads.clear()
        feed.look(store.source(), 0.0, offset)
        assert feed.seen is not None
        assert (feed.seen.end, len(store.reads)) == (5 * PIECE, reads)
        assert (feed.seen.piece_at(offset) is not None) == (reads > 0)


def test_no_output_is_read_for_those_who_want_none() -> None:
    store, feed = FakeStore(), Feed("job1", 0.0)
    for _ in range(3):
        store.write("more")
        feed.look(store.source(), 0.0, None)
    assert store.reads == []
    assert feed.seen is not None
    assert feed.seen.end == 12


def test_the_end_waits_until_all_output_has_been_read() -> None:
    store, feed = FakeStore(), Feed("job1", 0.0)
    feed.look(store.source(), 0.0, 0)
    store.write("x" * 9 * PIECE, status=Status.COMPLETED)
    found = []
    for _ in range(3):
        feed.look(store.source(), 0.0, 0)
        assert feed.seen is not None
        found.append((feed.seen.end // PIECE, feed.seen.is_final, b'"COMPLETED"' in feed.seen.state))
    assert found == [(4, False, False), (8, False, False), (9, True, True)]
    assert feed.due == math.inf


def test_only_the_last_pieces_are_kept() -> None:
    store, feed = FakeStore(), Feed("job1", 0.0)
    for _ in range(20):
        feed.look(store.source(), 0.0, 0)
        store.write("x" * PIECE)
    assert feed.seen is not None
    assert sum(piece.end - piece.start for piece in feed.seen.pieces) <= 4 * PIECE


def test_output_that_is_told_of_and_not_there_yet_comes_later() -> None:
    store, feed = FakeStore(), Feed("job1", 0.0)
    feed.look(store.source(), 0.0, 0)
    store.write("late\n", visible=False)
    feed.look(store.source(), 0.0, 0)
    assert feed.seen is not None
    assert (feed.seen.end, feed.seen.pieces) == (0, ())
    store.output = b"late\n"
    assert feed.look(store.source(), 0.0, 0)
    assert feed.seen.end == 5


def test_a_job_that_seems_to_go_back_does_not_take_output_back() -> None:
    store, feed = FakeStore(), Feed("job1", 0.0)
    before = store.job
    store.write("text\n")
    feed.look(store.source(), 0.0, 0)
    store.job = before  # as a cache may show it that has lost something
    feed.look(store.source(), 0.0, 0)
    assert feed.seen is not None
    assert feed.seen.end == 5


def test_looks_are_rarer_while_nothing_changes_and_often_again_after_a_change() -> None:
    store, feed = FakeStore(), Feed("job1", 0.0)
    waits = []
    for number in range(8):
        if number == 6:
            store.write(progress=50)
        feed.look(store.source(), 0.0, 0)
        waits.append(feed.due)
    assert waits[0] == waits[6] == 0.25
    assert waits[1:6] == sorted(waits[1:6])
    assert waits[5] == 1.0
