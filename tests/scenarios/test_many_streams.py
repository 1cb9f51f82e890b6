"""Five hundred streams in one process: their events, the reads of the store, and the memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, cast

import pytest
from attrs import define, field, frozen

from backjob.jobs import engine_of
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
    """The cost of some streams: reads of the store per second while the job reports, memory (bytes) and threads."""

    reads_per_second: float
    resident: int
    threads: int


@define
class Client:
    """A client of one stream."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    source: EventSource = field(factory=EventSource)

    async def until(self, text: str) -> None:
        """Read until the data of an event contains this text."""
        while not any(text in data for _, data, _ in self.source.events):
            line = await self.reader.readline()
            assert line, self.source.events
            if b":" in line or line == b"\n":  # skips the sizes and ends of chunks
                self.source.feed(line)


@contextmanager
def counted(directory: Path) -> Iterator[Site]:
    """The application that counts reads, in one process of uvicorn."""
    with (
        running(
            KINDS["uvicorn-httptools"], "tests.scenarios.apps.counting_app:app", directory, settings(directory)
        ) as server,
        jobs_at(directory) as jobs,
    ):
        yield Site(server, jobs, directory)


@asynccontextmanager
async def listening(site: Site, target: str, count: int) -> AsyncIterator[list[Client]]:
    """Clients that have received the response headers."""
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
    """The cost of ``count`` streams of a job that reports repeatedly. Asserts that each client gets the whole output."""
    async with listening(site, f"{site.jobs.status_url(job_id)}/events", count) as clients:
        await asyncio.gather(*(client.until("IN_PROGRESS") for client in clients))
        before, begun = await cost_page(site), time.monotonic()
        for number in range(_ROUNDS):
            text = f"{count} clients, {number}"
            assert site.jobs.store.report(job_id, _TOKEN, Report(text=text, output=f"{text} ä\n"))
            await asyncio.gather(*(client.until(f'"status_text": "{text}"') for client in clients))
        elapsed, after = time.monotonic() - begun, await cost_page(site)
        await asyncio.gather(*(client.until(f"{count} clients, {_ROUNDS - 1} \\u00e4") for client in clients))
        whole = site.jobs.output(job_id).text
        assert {client.source.text for client in clients} == {whole}
    return Cost((after["reads"] - before["reads"]) / elapsed, after["resident"], after["threads"])


async def cost_page(site: Site) -> Any:
    return (await asyncio.to_thread(site.page, "/cost")).json()


async def bare(site: Site, count: int) -> Any:
    """The cost of as many open streams without events."""
    async with listening(site, "/bare", count) as clients:
        await asyncio.gather(*(client.until("bare") for client in clients))
        return await cost_page(site)


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 3 * WAIT))


def running_job(site: Site) -> str:
    """The id of a job that only the test reports on."""
    job = engine_of(site.jobs).store.create(Draft(id=new_job_id(), request=Request("GET", "/work"), error_timeout=600))
    assert site.jobs.store.change(job.id, *claimed(_TOKEN, 1, 600)) is not None
    return job.id


def test_500_clients_get_every_event_with_as_many_store_reads_as_one_client(tmp_path: Path) -> None:
    with counted(tmp_path) as site:
        one, many, again = [run(watched(site, running_job(site), count)) for count in (1, _MANY, 1)]
    (tmp_path / "bare").mkdir()
    with counted(tmp_path / "bare") as site:
        bare_one, bare_many = run(bare(site, 1)), run(bare(site, _MANY))
    per_stream = (many.resident - one.resident) / (_MANY - 1) / 1024
    per_bare_stream = (bare_many["resident"] - bare_one["resident"]) / (_MANY - 1) / 1024
    print(f"\nreads of the store per second: 1 stream {one.reads_per_second:.1f}, {_MANY} {many.reads_per_second:.1f}")
    print(
        f"resident memory per stream: {per_stream:.1f} KiB, per bare stream {per_bare_stream:.1f} KiB; threads {many.threads}"
    )
    # A busy machine only lowers how often one stream has its job read.
    assert many.reads_per_second <= 1.5 * max(one.reads_per_second, again.reads_per_second)
    assert many.threads < _MANY / 2
