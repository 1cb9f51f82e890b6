"""On every store that processes share: a row that was changed outside of backjob runs nothing; an untouched one does."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest
from redis import Redis

from backjob.protocols import Store
from backjob.stores import open_store as open_store_at
from backjob.stores.cached import CachedStore
from backjob.testing import FakeClock
from tests.services import REDIS, own_name
from tests.shared_stores import BY_NAME, LISTING_STORES, SharedStore, mariadb, postgres, redis_cache
from tests.tampering import (
    EACH_COLUMN,
    TAMPERINGS,
    Open,
    Rows,
    Tampering,
    check_claimed,
    check_joined,
    check_kinds,
    check_sent,
)

STORES: Final = [
    pytest.param(one, marks=() if one.name == "SQLiteStore" else pytest.mark.services, id=one.name)
    for one in LISTING_STORES
]
ON_EACH: Final = pytest.mark.parametrize("place", STORES, indirect=True)
CHANGES: Final = pytest.mark.parametrize(
    ("place", "tampering"),
    [
        pytest.param(*store.values, tampering, marks=store.marks, id=f"{store.id}-{tampering}")
        for store in STORES
        for tampering in (EACH_COLUMN if store.marks else TAMPERINGS)
    ],
    indirect=["place"],
)


def _table(execute: Callable[..., list[Any]], mark: str, table: str) -> Rows:
    """The rows of a table, by a function that executes SQL."""

    def read(job_id: str, column: str) -> Any:
        [(value,)] = execute(f"SELECT {column} FROM {table} WHERE id = {mark}", job_id)
        return value

    def write(job_id: str, column: str, value: Any) -> None:
        execute(f"UPDATE {table} SET {column} = {mark} WHERE id = {mark}", value, job_id)

    return Rows(read, write)


def _sqlite(url: str) -> Rows:
    path = url.removeprefix("sqlite:///").partition("?")[0]

    def execute(statement: str, *values: object) -> list[Any]:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            return list(connection.execute(statement, values))

    jobs, this = _table(execute, "?", "backjob"), "job = (SELECT seq FROM backjob WHERE id = ?)"

    def read(job_id: str, column: str) -> Any:
        if column != "body":
            return jobs.read(job_id, column)
        [(body,)] = execute(f"SELECT body FROM backjob_body WHERE {this}", job_id)
        return body

    def write(job_id: str, column: str, value: Any) -> None:
        if column == "body":
            execute(f"UPDATE backjob_body SET body = ? WHERE {this}", value, job_id)
        else:
            jobs.write(job_id, column, value)

    return Rows(read, write)


def _redis(url: str) -> Rows:
    prefix = parse_qs(urlsplit(url).query)["prefix"][0]

    def key(job_id: str) -> str:
        return f"{{{prefix}}}:job:{job_id}"

    def read(job_id: str, column: str) -> Any:
        with closing(Redis.from_url(REDIS.url)) as client:
            return client.hget(key(job_id), column)

    def write(job_id: str, column: str, value: Any) -> None:
        with closing(Redis.from_url(REDIS.url)) as client:
            assert client.exists(key(job_id))
            if value is None:
                client.hdel(key(job_id), column)
            else:
                client.hset(key(job_id), column, value)
                if column == "merge_key":
                    client.hset(f"{{{prefix}}}:merge", value, job_id)

    return Rows(read, write)


def _rows(shared: SharedStore, url: str) -> Rows:
    options = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    if shared.name == "PostgreSQL":
        return _table(postgres, "%s", f"{options['schema']}.backjob")
    if shared.name == "MariaDB":
        return _table(mariadb, "%s", options["table_name"])
    return _redis(url) if shared.name == "Redis" else _sqlite(url)


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Open, Rows]]:
    """Opens the store for one process, and the rows in it."""
    shared: SharedStore = request.param
    with ExitStack() as stack:
        url = stack.enter_context(shared.place(tmp_path_factory.mktemp("store")))

        def open_store(clock: FakeClock) -> Store:
            return stack.enter_context(shared.open(url, clock))

        yield open_store, _rows(shared, url)


@CHANGES
def test_nothing_is_sent_for_a_row_that_was_changed(place: tuple[Open, Rows], tampering: Tampering) -> None:
    check_sent(*place, tampering)


@CHANGES
def test_a_row_that_was_changed_after_its_request_was_sent_runs_no_other_action(
    place: tuple[Open, Rows], tampering: Tampering
) -> None:
    check_claimed(*place, tampering)


@ON_EACH
def test_a_merge_key_that_was_moved_to_another_row_lends_it_no_credentials(place: tuple[Open, Rows]) -> None:
    check_joined(*place)


@ON_EACH
@pytest.mark.parametrize("seal", [True, False], ids=["sealed", "anonymous"])
def test_an_untouched_row_of_each_kind_is_sent_and_runs(place: tuple[Open, Rows], seal: bool) -> None:
    check_kinds(place[0], seal=seal)


@pytest.mark.services
@pytest.mark.parametrize("seal", [True, False], ids=["sealed", "anonymous"])
def test_an_untouched_row_in_a_cache_alone_is_sent_and_runs(tmp_path: Path, seal: bool) -> None:
    shared = BY_NAME["cachelib on Redis"]
    with ExitStack() as stack:
        url = stack.enter_context(shared.place(tmp_path))
        check_kinds(lambda clock: stack.enter_context(shared.open(url, clock)), seal=seal)


@pytest.mark.services
@pytest.mark.parametrize("seal", [True, False], ids=["sealed", "anonymous"])
def test_an_untouched_row_of_a_store_with_a_cache_is_sent_and_runs(tmp_path: Path, seal: bool) -> None:
    REDIS.require()
    url, prefix = f"sqlite:///{tmp_path}/jobs.db", own_name()

    with ExitStack() as stack:

        def open_store(clock: FakeClock) -> Store:
            return CachedStore(
                stack.enter_context(closing(open_store_at(url, clock=clock))), redis_cache, prefix=prefix, clock=clock
            )

        check_kinds(open_store, seal=seal)
