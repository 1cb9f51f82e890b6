"""One client's stream: what it gets from which offset on, in a thread and in an event loop."""

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
from backjob.status.feeds import Piece, Seen
from backjob.status.streams import LIFETIME, Stream
from backjob.worker.running import Running
from tests.event_source import EventSource
from tests.unit.core import Bench, bench

TEXT: Final = "aä€😀\n" * 3
SIZE: Final = len(TEXT.encode())
PATIENCE: Final = 10.0
DONE: Final = completed("Done")


@pytest.fixture
def world() -> Bench:
    return bench(streams=5)


def begun(world: Bench, text: str = "") -> Running:
    """A running job that has put out a text."""
    running = world.run()
    put_out(world, running, text)
    return running


def put_out(world: Bench, running: Running, text: str, *, truncated: bool = False) -> None:
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
    """The output of each event, empty where it is none."""
    return [json.loads(data)["text"] if name == "output" else "" for name, data, _ in source.events]


def opened(world: Bench, running: Running, offset: int = 0, *, output: bool = True) -> Stream:
    stream = world.jobs.broadcast.open(running.job.id, offset, output=output, in_thread=True)
    assert stream is not None
    return stream


def heard(world: Bench, stream: Stream, source: EventSource | None = None, *, after: float = 1.0) -> EventSource:
    """What the stream has to say when its job has been looked at again, without waiting for more."""
    world.clock.advance(after)
    world.jobs.broadcast.step()
    return (source or EventSource()).read(at_hand(stream))


def at_hand(stream: Stream) -> Iterator[bytes]:
    while not stream.is_over and (chunk := stream.take()) is not None:
        yield chunk


# --- states ---------------------------------------------------------------------------------------------------------


def test_the_state_comes_at_the_beginning_and_whenever_it_has_changed(world: Bench) -> None:
    running = begun(world)
    stream = opened(world, running)
    source = heard(world, stream)
    assert (source.retry, source.names) == (2000, ["state"])
    heard(world, stream, source)
    assert source.names == ["state"]
    report(world, running, 40)
    heard(world, stream, source)
    assert [state["progress"] for state in source.states] == [0, 40]
    assert source.states[-1] == world.jobs.status(running.job.id).as_dict()


def test_the_final_state_is_the_end_and_comes_once_after_all_output(world: Bench) -> None:
    running = begun(world)
    stream = opened(world, running)
    source = heard(world, stream)
    put_out(world, running, TEXT)
    finish(world, running)
    heard(world, stream, source)
    assert source.names == ["state", "output", "end"]
    assert source.states[-1] == world.jobs.status(running.job.id).as_dict()
    assert stream.is_over
    assert list(stream) == []


def test_of_a_job_that_has_ended_there_is_no_state_but_the_final_one(world: Bench) -> None:
    running = begun(world, TEXT)
    finish(world, running)
    source = heard(world, opened(world, running))
    assert (source.names, source.text, source.last_id) == (["output", "end"], TEXT, str(SIZE))


def test_without_output_there_are_states_alone_and_none_is_read(world: Bench) -> None:
    running = begun(world, TEXT)
    report(world, running, 10)
    stream = opened(world, running, output=False)
    world.store.calls.clear()
    source = heard(world, stream)
    put_out(world, running, "more")
    finish(world, running)
    heard(world, stream, source)
    assert (source.names, source.last_id) == (["state", "end"], "0")


def test_a_slow_client_skips_states_in_between(world: Bench) -> None:
    running = begun(world)
    stream = opened(world, running)
    source = heard(world, stream)
    for progress in (10, 20, 30):
        report(world, running, progress)
        world.clock.advance(1)
        world.jobs.broadcast.step()
    assert [state["progress"] for state in source.read(at_hand(stream)).states] == [0, 30]


def test_a_text_that_is_the_output_is_sent_short_until_the_end(world: Bench) -> None:
    running = begun(world, "x" * 20_000 + "\nlast line")
    stream = opened(world, running, output=False)
    source = heard(world, stream)
    finish(world, running, End(Status.COMPLETED))
    heard(world, stream, source)
    text, whole = (state["status_text"] for state in source.states)
    assert (len(text), text[-9:]) == (4096, "last line")
    assert whole == world.jobs.status(running.job.id).status_text
    assert len(whole) > 20_000


# --- output ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", range(SIZE + 2))
def test_output_goes_on_from_any_byte_and_ids_say_where(world: Bench, offset: int) -> None:
    running = begun(world, TEXT[:-5])
    stream = opened(world, running, offset)
    source = heard(world, stream)
    put_out(world, running, TEXT[-5:])
    heard(world, stream, source)
    finish(world, running)
    heard(world, stream, source)
    rest = world.jobs.output(running.job.id, offset)
    assert (source.text, source.last_id) == (rest.text, str(max(offset, SIZE)))
    assert source.text == TEXT.encode()[offset:].decode(errors="ignore")


def test_who_connects_again_with_any_id_it_had_misses_nothing_and_gets_nothing_twice(world: Bench) -> None:
    running = begun(world)
    stream = opened(world, running)
    source = heard(world, stream)
    for line in TEXT.splitlines(keepends=True):
        put_out(world, running, line)
        heard(world, stream, source)
    finish(world, running)
    heard(world, stream, source)
    for number, (_, _, last_id) in enumerate(source.events):
        had = "".join(data for data in texts(source)[: number + 1])
        again = heard(world, opened(world, running, int(last_id)))
        assert had + again.text == TEXT


def test_output_of_many_pieces_is_read_in_bounded_ones(world: Bench) -> None:
    running = begun(world)
    early = opened(world, running)
    source = heard(world, early)
    whole = "".join(f"{number:06d} ä\n" for number in range(60_000))
    put_out(world, running, whole)
    finish(world, running)
    for _ in range(5):
        heard(world, early, source)
    late = heard(world, opened(world, running, 3), after=0)
    assert (source.text, source.names[-1]) == (whole, "end")
    assert (late.text, late.names[-1]) == (whole[3:], "end")
    assert max(len(text.encode()) for text in [*texts(source), *texts(late)]) <= 1 << 16


def test_at_the_live_end_a_piece_is_read_once_and_encoded_once_for_all(world: Bench) -> None:
    running = begun(world, TEXT)
    streams = [opened(world, running, SIZE) for _ in range(5)]
    for stream in streams:
        heard(world, stream)
    world.store.calls.clear()
    put_out(world, running, "news\n")
    world.clock.advance(1)
    world.jobs.broadcast.step()
    chunks = [list(at_hand(stream)) for stream in streams]
    assert world.store.count("get", "output") <= 3  # the job, the news, and the end of the output for its state
    assert all(chunk is chunks[0][1] for _, chunk in chunks)


def test_truncation_is_told_even_if_no_output_comes_with_it(world: Bench) -> None:
    running = begun(world)
    stream = opened(world, running)
    source = heard(world, stream)
    put_out(world, running, "full")
    heard(world, stream, source)
    put_out(world, running, "", truncated=True)
    heard(world, stream, source)
    heard(world, stream, source)
    pieces = [json.loads(data) for name, data, _ in source.events if name == "output"]
    assert pieces == [
        {"text": "full", "next_offset": 4, "truncated": False},
        {"text": "", "next_offset": 4, "truncated": True},
    ]


def test_output_that_is_lost_does_not_keep_the_end_from_being_told(world: Bench) -> None:
    running = begun(world, TEXT)
    finish(world, running)
    early = opened(world, running, SIZE)
    assert heard(world, early).names == ["end"]
    late = opened(world, running)
    assert world.store.purge(0.5, 0.5) == 1
    assert EventSource().read(at_hand(late)).names == ["end"]


# --- silence, time, and a store that is away ------------------------------------------------------------------------


def test_a_silent_stream_says_something_every_15_seconds(world: Bench) -> None:
    running = begun(world)
    stream = opened(world, running, output=False)
    source = heard(world, stream)
    heard(world, stream, source, after=14.9)
    assert source.comments == 0
    heard(world, stream, source, after=0.2)
    heard(world, stream, source, after=1)
    assert source.comments == 1
    assert stream.wake_at <= world.clock.monotonic() + 15


def test_a_stream_ends_by_itself_in_time(world: Bench) -> None:
    running = begun(world)
    stream = opened(world, running)
    heard(world, stream)
    world.clock.advance(LIFETIME)
    assert stream.is_over
    assert list(stream) == []
    assert world.jobs.broadcast.count == 0


def test_clients_that_came_at_once_are_not_sent_away_at_once(world: Bench) -> None:
    running = begun(world)
    streams = [opened(world, running) for _ in range(3)]
    world.clock.advance(LIFETIME - 1.5)
    assert [stream.is_over for stream in streams] == [False, False, True]


def test_a_job_that_is_purged_ends_its_streams_without_a_word(world: Bench) -> None:
    running = begun(world)
    stream = opened(world, running)
    source = heard(world, stream)
    world.store.broken["get"] = JobNotFound(running.job.id)
    heard(world, stream, source)
    assert (source.names, stream.is_over) == (["state"], True)


def test_streams_live_on_while_the_store_is_away(world: Bench) -> None:
    running = begun(world, TEXT)
    follower = opened(world, running, SIZE)
    source = heard(world, follower)
    late = opened(world, running)
    world.store.down |= {"get", "output"}
    behind = EventSource().read(at_hand(late))
    for _ in range(20):
        heard(world, follower, source, after=1)
        heard(world, late, behind, after=0)
    assert (source.names, source.comments) == (["state"], 1)
    assert (behind.names, behind.comments) == (["state"], 1)
    world.store.down.clear()
    put_out(world, running, "news\n")
    heard(world, follower, source)
    heard(world, late, behind, after=0)
    assert (source.text, behind.text) == ("news\n", TEXT + "news\n")


# --- in threads and event loops -------------------------------------------------------------------------------------


def test_in_a_thread_it_waits_until_it_is_woken(world: Bench) -> None:
    running = begun(world)
    stream = opened(world, running)
    source = EventSource()
    reader = threading.Thread(target=lambda: source.read(stream))
    reader.start()
    finish(world, running)
    world.jobs.broadcast.step()
    reader.join(PATIENCE)
    assert (source.names, world.jobs.broadcast.count) == (["end"], 0)


def test_in_an_event_loop_it_waits_for_the_watchers_thread(world: Bench) -> None:
    running = begun(world, TEXT)
    stream = opened(world, running)

    async def follow() -> EventSource:
        source = EventSource()
        async for chunk in stream:
            source.feed(chunk)
            if source.text == TEXT and not source.has_ended:
                finish(world, running)
                world.clock.advance(1)
                await asyncio.to_thread(world.jobs.broadcast.step)
            elif not source.names:
                await asyncio.to_thread(world.jobs.broadcast.step)
        return source

    source = asyncio.run(asyncio.wait_for(follow(), PATIENCE))
    assert (source.names, world.jobs.broadcast.count) == (["state", "output", "end"], 0)


def test_an_event_loop_reads_no_store_whatever_its_feed_drops_meanwhile(
    world: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = begun(world)
    stream, source = opened(world, running), EventSource()
    heard(world, stream, source)
    put_out(world, running, TEXT)
    world.clock.advance(1)
    world.jobs.broadcast.step()
    source.feed(stream.take() or b"")  # the state, of which output is the text
    piece_at, readers = Seen.piece_at, list[int]()

    def found_and_dropped(seen: Seen, offset: int) -> Piece | None:
        piece = piece_at(seen, offset)
        stream.feed.seen = evolve(seen, pieces=())
        return piece

    async def story() -> int:
        follower = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)  # as far as it comes without help
        stream.ring()
        source.feed(await follower)
        return threading.get_ident()

    monkeypatch.setattr(Seen, "piece_at", found_and_dropped)
    world.store.before["output"] = lambda: readers.append(threading.get_ident())
    loop_thread = asyncio.run(asyncio.wait_for(story(), PATIENCE))
    assert source.text == TEXT
    assert len(readers) == 1
    assert loop_thread not in readers
