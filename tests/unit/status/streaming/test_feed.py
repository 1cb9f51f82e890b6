"""Feeds: what a poll reads of a job, and the snapshot that it leaves for the streams."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from attrs import define, evolve, field

from backjob.model import Job, JobState, Output, Status
from backjob.status.streaming.feed import MAX_CHUNK, Feed, Source
from backjob.stores.values import output_piece
from backjob.testing import FakeClock

NOON: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)


@define
class FakeStore:
    """One job and its output. ``reads`` are the (offset, limit) of each read of the output."""

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
        """Report something. Output that is not ``visible`` counts in the job's size, but can't be read yet."""
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
        return Source(lambda _: self.job, state_of, self._read, lambda: None, no_offload, FakeClock(NOON))

    def _read(self, _job_id: str, offset: int, limit: int) -> Output:
        self.reads.append((offset, limit))
        return output_piece(self.output[offset:], offset, limit, truncated=False)


async def no_offload(read: Any) -> Any:
    """Not used by feeds."""


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


def test_a_poll_of_an_unchanged_job_reads_no_output() -> None:
    store, feed = FakeStore(), Feed("job1", 0.0)
    store.write("x" * 100)
    assert feed.poll(store.source(), 0.0, 0)
    snapshot = feed.snapshot
    store.reads.clear()
    assert not feed.poll(store.source(), 1.0, 0)
    assert (feed.snapshot, store.reads) == (snapshot, [])


def test_the_first_poll_reads_from_the_first_clients_offset_unless_that_is_far_behind() -> None:
    store = FakeStore()
    store.write("x" * 5 * MAX_CHUNK)
    for offset, reads in ((5 * MAX_CHUNK - 10, 1), (2 * MAX_CHUNK, 3), (0, 0), (5 * MAX_CHUNK + 1, 0)):
        feed = Feed("job1", 0.0)
        store.reads.clear()
        feed.poll(store.source(), 0.0, offset)
        assert feed.snapshot is not None
        assert (feed.snapshot.end, len(store.reads)) == (5 * MAX_CHUNK, reads)
        assert (feed.snapshot.chunk_at(offset) is not None) == (reads > 0)


def test_no_output_is_read_for_streams_without_output() -> None:
    store, feed = FakeStore(), Feed("job1", 0.0)
    for _ in range(3):
        store.write("more")
        feed.poll(store.source(), 0.0, None)
    assert store.reads == []
    assert feed.snapshot is not None
    assert feed.snapshot.end == 12


def test_the_final_state_waits_until_all_output_has_been_read() -> None:
    store, feed = FakeStore(), Feed("job1", 0.0)
    feed.poll(store.source(), 0.0, 0)
    store.write("x" * 9 * MAX_CHUNK, status=Status.COMPLETED)
    found = []
    for _ in range(3):
        feed.poll(store.source(), 0.0, 0)
        assert feed.snapshot is not None
        found.append((feed.snapshot.end // MAX_CHUNK, feed.snapshot.is_final, b'"COMPLETED"' in feed.snapshot.state))
    assert found == [(4, False, False), (8, False, False), (9, True, True)]
    assert feed.due == math.inf


def test_the_buffer_keeps_only_the_latest_chunks() -> None:
    store, feed = FakeStore(), Feed("job1", 0.0)
    for _ in range(20):
        feed.poll(store.source(), 0.0, 0)
        store.write("x" * MAX_CHUNK)
    assert feed.snapshot is not None
    assert sum(chunk.end - chunk.start for chunk in feed.snapshot.chunks) <= 4 * MAX_CHUNK


def test_output_that_the_store_does_not_show_yet_is_read_later() -> None:
    store, feed = FakeStore(), Feed("job1", 0.0)
    feed.poll(store.source(), 0.0, 0)
    store.write("late\n", visible=False)
    feed.poll(store.source(), 0.0, 0)
    assert feed.snapshot is not None
    assert (feed.snapshot.end, feed.snapshot.chunks) == (0, ())
    store.output = b"late\n"
    assert feed.poll(store.source(), 0.0, 0)
    assert feed.snapshot.end == 5


def test_a_stale_read_of_the_job_removes_no_output() -> None:
    store, feed = FakeStore(), Feed("job1", 0.0)
    before = store.job
    store.write("text\n")
    feed.poll(store.source(), 0.0, 0)
    store.job = before  # a cache may return an old version
    feed.poll(store.source(), 0.0, 0)
    assert feed.snapshot is not None
    assert feed.snapshot.end == 5


def test_the_poll_interval_grows_while_nothing_changes_and_shrinks_after_a_change() -> None:
    store, feed = FakeStore(), Feed("job1", 0.0)
    intervals = []
    for number in range(8):
        if number == 6:
            store.write(progress=50)
        feed.poll(store.source(), 0.0, 0)
        intervals.append(feed.due)
    assert intervals[0] == intervals[6] == 0.25
    assert intervals[1:6] == sorted(intervals[1:6])
    assert intervals[5] == 1.0
