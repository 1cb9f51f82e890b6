"""One client's stream: what it sends from an offset on, in a thread and in an event loop."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Final

import pytest
from attrs import evolve

from backjob.errors import JobNotFound
from backjob.lifecycle import End, completed, ended
from backjob.model import Expect, Report, Status
from backjob.status.streaming.feed import Chunk, Snapshot
from backjob.status.streaming.stream import LIFETIME, Stream
from backjob.worker.running import Running
from tests.event_source import EventSource
from tests.unit.core import Bench, bench

TEXT: Final = "aä€😀\n" * 3
SIZE: Final = len(TEXT.encode())
PATIENCE: Final = 60.0
DONE: Final = completed("Done")


@pytest.fixture
def world() -> Bench:
    return bench(streams=5)


def running_job(world: Bench, text: str = "") -> Running:
    """A running job that has written some output."""
    running = world.run()
    write_output(world, running, text)
    return running


def write_output(world: Bench, running: Running, text: str, *, truncated: bool = False) -> None:
    token = running.job.token
    assert token is not None
    assert world.store.report(running.job.id, token, Report(output=text, truncated=truncated))


def report(world: Bench, running: Running, progress: int) -> None:
    token = running.job.token
    assert token is not None
    assert world.store.report(running.job.id, token, Report(progress=progress))


def finish(world: Bench, running: Running, end: End = DONE) -> None:
    assert world.store.change(running.job.id, Expect(token=running.job.token), ended(end))


def texts(source: EventSource) -> list[str]:
    """The output of each event; empty for other events."""
    return [json.loads(data)["text"] if name == "output" else "" for name, data, _ in source.events]


def opened(world: Bench, running: Running, offset: int = 0, *, output: bool = True) -> Stream:
    stream = world.engine.broadcast.open(running.job.id, offset, output=output, in_thread=True)
    assert stream is not None
    return stream


def received(world: Bench, stream: Stream, source: EventSource | None = None, *, after: float = 1.0) -> EventSource:
    """Poll the job, and read what the stream has then, without waiting for more."""
    world.clock.advance(after)
    world.engine.broadcast.step()
    return (source or EventSource()).read(available(stream))


def available(stream: Stream) -> Iterator[bytes]:
    while not stream.is_over and (chunk := stream.take()) is not None:
        yield chunk


# --- states ---------------------------------------------------------------------------------------------------------


def test_the_state_is_sent_first_and_after_each_change(world: Bench) -> None:
    running = running_job(world)
    stream = opened(world, running)
    source = received(world, stream)
    assert (source.retry, source.names) == (2000, ["state"])
    received(world, stream, source)
    assert source.names == ["state"]
    report(world, running, 40)
    received(world, stream, source)
    assert [state["progress"] for state in source.states] == [0, 40]
    assert source.states[-1] == world.jobs.status(running.job.id).as_dict()


def test_the_final_state_is_sent_once_after_all_output(world: Bench) -> None:
    running = running_job(world)
    stream = opened(world, running)
    source = received(world, stream)
    write_output(world, running, TEXT)
    finish(world, running)
    received(world, stream, source)
    assert source.names == ["state", "output", "end"]
    assert source.states[-1] == world.jobs.status(running.job.id).as_dict()
    assert stream.is_over
    assert list(stream) == []


def test_an_ended_job_sends_only_its_final_state(world: Bench) -> None:
    running = running_job(world, TEXT)
    finish(world, running)
    source = received(world, opened(world, running))
    assert (source.names, source.text, source.last_id) == (["output", "end"], TEXT, str(SIZE))


def test_a_stream_without_output_sends_only_states(world: Bench) -> None:
    running = running_job(world, TEXT)
    report(world, running, 10)
    stream = opened(world, running, output=False)
    world.store.calls.clear()
    source = received(world, stream)
    write_output(world, running, "more")
    finish(world, running)
    received(world, stream, source)
    assert (source.names, source.last_id) == (["state", "end"], "0")


def test_a_slow_client_skips_intermediate_states(world: Bench) -> None:
    running = running_job(world)
    stream = opened(world, running)
    source = received(world, stream)
    for progress in (10, 20, 30):
        report(world, running, progress)
        world.clock.advance(1)
        world.engine.broadcast.step()
    assert [state["progress"] for state in source.read(available(stream)).states] == [0, 30]


def test_the_state_of_a_running_job_shows_only_the_end_of_long_output(world: Bench) -> None:
    running = running_job(world, "x" * 20_000 + "\nlast line")
    stream = opened(world, running, output=False)
    source = received(world, stream)
    finish(world, running, End(Status.COMPLETED))
    received(world, stream, source)
    text, whole = (state["status_text"] for state in source.states)
    assert (len(text), text[-9:]) == (4096, "last line")
    assert whole == world.jobs.status(running.job.id).status_text
    assert len(whole) > 20_000


# --- output ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", range(SIZE + 2))
def test_a_client_can_resume_at_any_byte_and_event_ids_are_offsets(world: Bench, offset: int) -> None:
    running = running_job(world, TEXT[:-5])
    stream = opened(world, running, offset)
    source = received(world, stream)
    write_output(world, running, TEXT[-5:])
    received(world, stream, source)
    finish(world, running)
    received(world, stream, source)
    rest = world.jobs.output(running.job.id, offset)
    assert (source.text, source.last_id) == (rest.text, str(max(offset, SIZE)))
    assert source.text == TEXT.encode()[offset:].decode(errors="ignore")


def test_reconnecting_with_any_event_id_neither_skips_nor_repeats_output(world: Bench) -> None:
    running = running_job(world)
    stream = opened(world, running)
    source = received(world, stream)
    for line in TEXT.splitlines(keepends=True):
        write_output(world, running, line)
        received(world, stream, source)
    finish(world, running)
    received(world, stream, source)
    for number, (_, _, last_id) in enumerate(source.events):
        had = "".join(data for data in texts(source)[: number + 1])
        again = received(world, opened(world, running, int(last_id)))
        assert had + again.text == TEXT


def test_long_output_is_sent_in_chunks_of_limited_size(world: Bench) -> None:
    running = running_job(world)
    early = opened(world, running)
    source = received(world, early)
    whole = "".join(f"{number:06d} ä\n" for number in range(60_000))
    write_output(world, running, whole)
    finish(world, running)
    for _ in range(5):
        received(world, early, source)
    late = received(world, opened(world, running, 3), after=0)
    assert (source.text, source.names[-1]) == (whole, "end")
    assert (late.text, late.names[-1]) == (whole[3:], "end")
    assert max(len(text.encode()) for text in [*texts(source), *texts(late)]) <= 1 << 16


def test_new_output_is_read_once_and_encoded_once_for_all_streams(world: Bench) -> None:
    running = running_job(world, TEXT)
    streams = [opened(world, running, SIZE) for _ in range(5)]
    for stream in streams:
        received(world, stream)
    world.store.calls.clear()
    write_output(world, running, "news\n")
    world.clock.advance(1)
    world.engine.broadcast.step()
    chunks = [list(available(stream)) for stream in streams]
    assert world.store.count("get", "output") <= 3  # the job, the news, and the end of the output for its state
    assert all(chunk is chunks[0][1] for _, chunk in chunks)


def test_truncation_is_sent_even_without_new_output(world: Bench) -> None:
    running = running_job(world)
    stream = opened(world, running)
    source = received(world, stream)
    write_output(world, running, "full")
    received(world, stream, source)
    write_output(world, running, "", truncated=True)
    received(world, stream, source)
    received(world, stream, source)
    chunks = [json.loads(data) for name, data, _ in source.events if name == "output"]
    assert chunks == [
        {"text": "full", "next_offset": 4, "truncated": False, "tail": ""},
        {"text": "", "next_offset": 4, "truncated": True, "tail": ""},
    ]


def test_the_tail_is_sent_after_the_beginning_whenever_it_has_changed(world: Bench) -> None:
    running = running_job(world, "beginning")
    stream = opened(world, running)
    source = received(world, stream)
    for tail in ("end", "end", "later end"):
        token = running.token
        assert world.store.report(running.job.id, token, Report(truncated=True, tail=tail))
        received(world, stream, source)
        received(world, stream, source)
    late = received(world, opened(world, running))
    finish(world, running)
    received(world, stream, source)
    chunks = [json.loads(data) for name, data, _ in source.events if name == "output"]
    assert [(chunk["text"], chunk["tail"]) for chunk in chunks] == [("beginning", ""), ("", "end"), ("", "later end")]
    assert [chunk["next_offset"] for chunk in chunks] == [9, 9, 9]
    late_chunks = [json.loads(data) for name, data, _ in late.events if name == "output"]
    assert [(chunk["text"], chunk["tail"]) for chunk in late_chunks] == [("beginning", ""), ("", "later end")]
    assert source.names[-1] == "end"


def test_a_stream_without_output_gets_no_tail(world: Bench) -> None:
    running = running_job(world, "beginning")
    assert world.store.report(running.job.id, running.token, Report(truncated=True, tail="end"))
    assert received(world, opened(world, running, output=False)).names == ["state"]


def test_lost_output_does_not_delay_the_end(world: Bench) -> None:
    running = running_job(world, TEXT)
    finish(world, running)
    early = opened(world, running, SIZE)
    assert received(world, early).names == ["end"]
    late = opened(world, running)
    assert world.store.purge(0.5, 0.5) == 1
    assert EventSource().read(available(late)).names == ["end"]


# --- heartbeats, lifetime, outages of the store ----------------------------------------------------------------------


def test_a_silent_stream_sends_a_heartbeat_every_15_seconds(world: Bench) -> None:
    running = running_job(world)
    stream = opened(world, running, output=False)
    source = received(world, stream)
    received(world, stream, source, after=14.9)
    assert source.comments == 0
    received(world, stream, source, after=0.2)
    received(world, stream, source, after=1)
    assert source.comments == 1
    assert stream.wake_at <= world.clock.monotonic() + 15


def test_a_stream_ends_after_its_lifetime(world: Bench) -> None:
    running = running_job(world)
    stream = opened(world, running)
    received(world, stream)
    world.clock.advance(LIFETIME)
    assert stream.is_over
    assert list(stream) == []
    assert world.engine.broadcast.count == 0


def test_streams_opened_at_once_do_not_all_end_at_once(world: Bench) -> None:
    running = running_job(world)
    streams = [opened(world, running) for _ in range(3)]
    world.clock.advance(LIFETIME - 1.5)
    assert [stream.is_over for stream in streams] == [False, False, True]


def test_a_purged_job_ends_its_streams_without_an_event(world: Bench) -> None:
    running = running_job(world)
    stream = opened(world, running)
    source = received(world, stream)
    world.store.broken["get"] = JobNotFound(running.job.id)
    received(world, stream, source)
    assert (source.names, stream.is_over) == (["state"], True)


def test_streams_survive_an_outage_of_the_store(world: Bench) -> None:
    running = running_job(world, TEXT)
    follower = opened(world, running, SIZE)
    source = received(world, follower)
    late = opened(world, running)
    world.store.down |= {"get", "output"}
    behind = EventSource().read(available(late))
    for _ in range(20):
        received(world, follower, source, after=1)
        received(world, late, behind, after=0)
    assert (source.names, source.comments) == (["state"], 1)
    assert (behind.names, behind.comments) == (["state"], 1)
    world.store.down.clear()
    write_output(world, running, "news\n")
    received(world, follower, source)
    received(world, late, behind, after=0)
    assert (source.text, behind.text) == ("news\n", TEXT + "news\n")


# --- in threads and event loops -------------------------------------------------------------------------------------


def test_in_a_thread_a_stream_blocks_until_it_is_woken(world: Bench) -> None:
    running = running_job(world)
    stream = opened(world, running)
    source = EventSource()
    reader = threading.Thread(target=lambda: source.read(stream))
    reader.start()
    finish(world, running)
    world.engine.broadcast.step()
    reader.join(PATIENCE)
    assert (source.names, world.engine.broadcast.count) == (["end"], 0)


def test_in_an_event_loop_the_broadcasts_thread_wakes_a_stream(world: Bench) -> None:
    running = running_job(world, TEXT)
    stream = opened(world, running)

    async def follow() -> EventSource:
        source = EventSource()
        async for chunk in stream:
            source.feed(chunk)
            if source.text == TEXT and not source.has_ended:
                finish(world, running)
                world.clock.advance(1)
                await asyncio.to_thread(world.engine.broadcast.step)
            elif not source.names:
                await asyncio.to_thread(world.engine.broadcast.step)
        return source

    source = asyncio.run(asyncio.wait_for(follow(), PATIENCE))
    assert (source.names, world.engine.broadcast.count) == (["state", "output", "end"], 0)


def test_the_event_loop_never_reads_the_store_even_if_the_feed_drops_a_chunk(
    world: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = running_job(world)
    stream, source = opened(world, running), EventSource()
    received(world, stream, source)
    write_output(world, running, TEXT)
    world.clock.advance(1)
    world.engine.broadcast.step()
    source.feed(stream.take() or b"")  # the state; its text is the output
    chunk_at, readers = Snapshot.chunk_at, list[int]()

    def found_and_dropped(snapshot: Snapshot, offset: int) -> Chunk | None:
        chunk = chunk_at(snapshot, offset)
        stream.feed.snapshot = evolve(snapshot, chunks=())
        return chunk

    async def follow() -> int:
        follower = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)  # until it waits
        stream.wake()
        source.feed(await follower)
        return threading.get_ident()

    monkeypatch.setattr(Snapshot, "chunk_at", found_and_dropped)
    world.store.before["output"] = lambda: readers.append(threading.get_ident())
    loop_thread = asyncio.run(asyncio.wait_for(follow(), PATIENCE))
    assert source.text == TEXT
    assert len(readers) == 1
    assert loop_thread not in readers
