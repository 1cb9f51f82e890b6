"""Sealed credentials stay over the runs of a job, and its end erases them from the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from attrs import evolve
from sqlalchemy import MetaData, create_engine, inspect, select

from backjob import Status
from backjob.model import Credentials
from backjob.testing import FakeClock
from backjob.worker.outcomes import Outcome
from tests.services import REDIS
from tests.shared_stores import LISTING_STORES, SharedStore
from tests.unit.core import Bench, bench, served

STORES: Final = [
    pytest.param(one, marks=() if one.name == "SQLiteStore" else pytest.mark.services, id=one.name)
    for one in LISTING_STORES
]


def contents(url: str) -> bytes:
    """Every value in the tables or keys of the store at this URL, one after the other."""
    options = dict(pair.split("=") for pair in url.partition("?")[2].split("&"))
    if url.startswith("redis:"):
        return b"".join(map(_as_bytes, _values_in_redis(options["prefix"])))
    if url.startswith("sqlite:"):
        engine, wanted = create_engine(url.partition("?")[0]), ""
    else:
        engine, wanted = create_engine(url.partition("?")[0]), options.get("table_name", "")
    with closing(engine.connect()) as connection:
        schema = options.get("schema")
        names = [name for name in inspect(engine).get_table_names(schema) if name.startswith(wanted)]
        assert names
        tables = MetaData()
        tables.reflect(engine, schema, only=names)
        values = [value for table in tables.sorted_tables for row in connection.execute(select(table)) for value in row]
    engine.dispose()
    return b"".join(map(_as_bytes, values))


def _values_in_redis(prefix: str) -> Iterator[Any]:
    with closing(redis.Redis.from_url(REDIS.url)) as client:
        for key in client.scan_iter(match=f"*{prefix}*", count=10_000):
            yield key
            if client.type(key) == b"hash":
                for pair in client.hgetall(key).items():
                    yield from pair
            elif client.type(key) == b"string":
                yield client.get(key)


def _as_bytes(value: object) -> bytes:
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else str(value).encode()


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Bench]]:
    """The URL of a store, and a process on it."""
    shared: SharedStore = request.param
    clock = FakeClock()
    with shared.place(tmp_path) as url, shared.open(url, clock) as store:
        yield url, bench(store=store, clock=clock, seal=True)


def sealed_of(world: Bench, job_id: str) -> bytes:
    sealed = world.job(job_id).sealed
    assert sealed is not None
    return sealed


def test_the_end_of_a_job_with_retries_erases_its_sealed_credentials(place: tuple[str, Bench]) -> None:
    url, world = place
    with served():
        job_id = world.jobs.start("/work", retries=2, retry_delay=0)
    sealed = sealed_of(world, job_id)
    assert sealed in contents(url)
    world.step()
    world.engine.worker.end(world.receive(), Outcome(500))
    assert sealed_of(world, job_id) == sealed
    world.step()
    world.engine.worker.end(world.receive(), Outcome(200, "OK"))
    job = world.job(job_id)
    assert (job.status, job.run, job.sealed) == (Status.COMPLETED, 2, None)
    assert sealed not in contents(url)
    assert sealed[20:-20] not in contents(url)


def test_sealed_credentials_open_in_no_other_row_of_the_store(place: tuple[str, Bench]) -> None:
    _, world = place
    with served():
        first, second = (world.jobs.start(path, retries=2) for path in ("/work", "/other"))
    row, other = (world.engine.store.get(job_id, body=True) for job_id in (first, second))
    assert row is not None
    assert other is not None
    unseal = world.engine.delivery_parts.unseal
    assert isinstance(unseal(row), Credentials)
    assert unseal(evolve(other, sealed=row.sealed)) is None


def test_the_file_of_sqlite_has_no_copy_left_once_its_log_was_written_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    def as_in_other_builds(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.execute("PRAGMA secure_delete = OFF")
        return connection

    monkeypatch.setattr(sqlite3, "connect", as_in_other_builds)
    clock = FakeClock()
    shared = next(one for one in LISTING_STORES if one.name == "SQLiteStore")
    with shared.place(tmp_path) as url:
        with shared.open(url, clock) as store:
            world = bench(store=store, clock=clock, seal=True)
            with served():
                ids = [world.jobs.start("/work", {"n": n}, merge="never") for n in range(30)]
            secrets = [sealed_of(world, job_id) for job_id in ids]
        assert all(any(secret in file.read_bytes() for file in tmp_path.iterdir()) for secret in secrets)
        with shared.open(url, clock) as store:
            world = bench(store=store, clock=clock, seal=True)
            for job_id in ids:
                assert world.jobs.cancel(job_id)
        left = {file.name for file in tmp_path.iterdir() for secret in secrets if secret in file.read_bytes()}
    assert not left
