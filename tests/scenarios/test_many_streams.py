"""Five hundred streams on one process: what arrives, what is read for them, and what memory they take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, cast

import pytest
from attrs import define, field, frozen

from backjob.lifecycle import claimed
from backjob.model import Draft, Report, Request
from backjob.signing.tokens import new_job_id
from tests.event_source import EventSource
from tests.scenarios.client import WAIT
from tests.scenarios.servers import KINDS, running
from tests.scenarios.sites import Site, jobs_at, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

_MANY: Final = 500
_ROUNDS: Final = 12
_TOKEN: Final = "token"


@frozen
class Cost:
    """What so many streams cost: reads of the store a second while the job reports, memory (bytes) and threads."""

    reads_a_second: float
    resident: int
    threads: int


@define
class Client:
    """A browser that listens to one stream."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    source: EventSource = field(factory=EventSource)

    async def until(self, text: str) -> None:
        """Read until an event has this in its data."""
        while not any(text in data for _, data, _ in self.source.events):
            line = await self.reader.readline()
            assert line, self.source.events
            if b":" in line or line == b"\n":  # neither the size nor the end of a chunk
                self.source.feed(line)


@contextmanager
def counted(directory: Path) -> Iterator[Site]:
    """The application that counts, on one process of uvicorn."""
    with (
        running(
            KINDS["uvicorn-httptools"], "tests.scenarios.apps.counting_app:app", directory, settings(directory)
        ) as server,
        jobs_at(directory) as jobs,
    ):
        yield Site(server, jobs, directory)


@asynccontextmanager
async def listening(site: Site, target: str, count: int) -> AsyncIterator[list[Client]]:
    """So many clients that have the headers and what comes first."""
    clients: list[Client] = []
    host, port = cast("tuple[str, int]", site.client.address)
    try:
        for _ in range(count):
            reader, writer = await asyncio.open_connection(host, port)
            clients.append(Client(reader, writer))
            writer.write(f"GET {target} HTTP/1.1\r\nHost: shop.example\r\n\r\n".encode())
        for client in clients:
            assert b"200 OK" in await client.reader.readuntil(b"\r\n\r\n")
        yield clients
    finally:
        for client in clients:
            client.writer.close()


async def watched(site: Site, job_id: str, count: int) -> Cost:
    """What it costs that so many watch a job that reports now and then; all of them hear everything."""
    async with listening(site, f"{site.jobs.status_url(job_id)}/events", count) as clients:
        await asyncio.gather(*(client.until("IN_PROGRESS") for client in clients))
        before, begun = await cost_page(site), time.monotonic()
        for number in range(_ROUNDS):
            text = f"{count} watch, {number}"
            assert site.jobs.store.report(job_id, _TOKEN, Report(text=text, output=f"{text} ä\n"))
            await asyncio.gather(*(client.until(f'"status_text": "{text}"') for client in clients))
        elapsed, after = time.monotonic() - begun, await cost_page(site)
        await asyncio.gather(*(client.until(f"{count} watch, {_ROUNDS - 1} \\u00e4") for client in clients))
        whole = site.jobs.output(job_id).text
        assert {client.source.text for client in clients} == {whole}
    return Cost((after["reads"] - before["reads"]) / elapsed, after["resident"], after["threads"])


async def cost_page(site: Site) -> Any:
    return (await asyncio.to_thread(site.page, "/cost")).json()


async def bare(site: Site, count: int) -> Any:
    """What as many streams cost that nobody has anything to say to."""
    async with listening(site, "/bare", count) as clients:
        await asyncio.gather(*(client.until("bare") for client in clients))
        return await cost_page(site)


def go(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 3 * WAIT))


def test_all_of_500_clients_hear_everything_and_the_store_is_read_as_for_one(tmp_path: Path) -> None:
    with counted(tmp_path) as site:
        job = site.jobs.store.create(Draft(id=new_job_id(), request=Request("GET", "/work"), error_timeout=600))
        assert site.jobs.store.change(job.id, *claimed(_TOKEN)) is not None
        alone, many = go(watched(site, job.id, 1)), go(watched(site, job.id, _MANY))
    (tmp_path / "bare").mkdir()
    with counted(tmp_path / "bare") as site:
        few, lots = go(bare(site, 1)), go(bare(site, _MANY))
    a_stream = (many.resident - alone.resident) / (_MANY - 1) / 1024
    a_bare_one = (lots["resident"] - few["resident"]) / (_MANY - 1) / 1024
    print(f"\nreads of the store a second: 1 stream {alone.reads_a_second:.1f}, {_MANY} {many.reads_a_second:.1f}")
    print(
        f"resident memory of a stream: {a_stream:.1f} KiB, of a bare one {a_bare_one:.1f} KiB; threads {many.threads}"
    )
    assert many.reads_a_second <= 1.5 * alone.reads_a_second
    assert many.threads < _MANY / 2
