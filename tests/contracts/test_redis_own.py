"""What is the Redis store's own: expiry, layout, the server's clock, clients and URLs, errors, and that nothing is sent
twice.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import redis.asyncio
from attrs import evolve
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from backjob.errors import InvalidRequest, StoreError, StoreUnavailable, StoreUnusable
from backjob.lifecycle import cancelled, claimed, completed, ended, failed
from backjob.model import UNSET, Changes, Draft, Expect, Job, Query, Report, Request, Status
from backjob.protocols import Store
from backjob.stores import open_store
from backjob.stores.redis import RedisStore
from backjob.stores.redis import store as module
from backjob.testing import FakeClock
from tests.private_servers import REDIS as PRIVATE
from tests.private_servers import PrivateServer, Templates, private_server

HOUR: Final = 3_600_000  # ms
CLOSED: Final = 1
"""A port where nothing listens."""


def _command(directory: Path, port: int) -> list[str]:
    """With a Unix socket too, and quicker: what was written survives the server's end, and need not survive the machine's."""
    more = ("--appendfsync", "no", "--unixsocket", str(directory / "socket"), "--unixsocketperm", "777")
    return [*PRIVATE.command(directory, port), *more]


@pytest.fixture(scope="module")
def private() -> Iterator[PrivateServer]:
    with (
        Templates.made() as templates,
        private_server(evolve(PRIVATE, command=_command), templates) as server,
    ):
        server.directory.chmod(0o755)
        yield server


@pytest.fixture
def client(private: PrivateServer) -> Iterator[Any]:
    """A client of a server that is empty, and this test's own."""
    with Redis(port=private.port) as client:
        client.flushall()
        yield client


@pytest.fixture
def store(client: Any) -> RedisStore:
    return RedisStore(client)


def draft(job_id: str = "job", **fields: Any) -> Draft:
    return Draft(id=job_id, **{"request": Request("GET", "/work"), **fields})


def end(store: Store, job_id: str, status: Status = Status.COMPLETED, **fields: Any) -> None:
    """A job that said something and has ended."""
    ends = {Status.COMPLETED: completed(), Status.FAILED: failed("broken"), Status.CANCELLED: cancelled()}
    store.create(draft(job_id, **fields))
    store.change(job_id, *claimed("token"))
    store.report(job_id, "token", Report(output="said"))
    assert store.change(job_id, Expect(token="token"), ended(ends[status])) is not None


def ids(jobs: Sequence[Job]) -> list[str]:
    return [job.id for job in jobs]


def contents(client: Any) -> dict[bytes, bytes]:
    return {key: client.dump(key) for key in client.scan_iter()}


def names(client: Any) -> set[str]:
    return {key.decode().removeprefix("{backjob}:") for key in client.scan_iter()}


# --- the server's clock ---------------------------------------------------------------------------------------------


def server_now(client: Any) -> datetime:
    seconds, microseconds = client.time()
    return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=microseconds)


def test_time_is_the_servers_own(client: Any, store: RedisStore) -> None:
    before = server_now(client)
    job = store.create(draft(due=-0.25, delivery_timeout=7.000001, lessee="me", lease=0.5))
    claimed_job = store.change("job", *claimed("token"))
    read = store.get("job")
    after = server_now(client)
    assert read is not None
    assert claimed_job is not None
    assert before < job.created_time < claimed_job.updated_time == claimed_job.read_time < read.read_time < after
    assert read.created_time == job.created_time == job.updated_time
    assert job.start_time - job.created_time == timedelta(seconds=-0.25)
    assert job.deliver_by - job.start_time == timedelta(seconds=7.000001)
    assert job.lease_until is not None
    assert job.lease_until - job.created_time == timedelta(seconds=0.5)


@pytest.mark.parametrize("seconds", [-3e9, -1.999999, -1e-6, 0, 0.999999, 1e9 + 0.000001, 7.3e9 + 0.000001, 2e11])
def test_a_moment_far_from_the_servers_now_is_exact(store: RedisStore, seconds: float) -> None:
    job = store.create(draft(due=seconds))
    read = store.get("job")
    assert read is not None
    assert read == evolve(job, read_time=read.read_time)
    assert read.start_time == job.created_time + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "fields", [{"due": 1e13}, {"due": -1e11}, {"delivery_timeout": 2.6e11}, {"due": 2e11, "delivery_timeout": 2e11}]
)
def test_a_moment_outside_of_the_calendar_is_refused(client: Any, store: RedisStore, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        store.create(draft(**fields))
    assert contents(client) == {}


# --- retention ------------------------------------------------------------------------------------------------------


def expiry(client: Any, job_id: str) -> tuple[int, int]:
    """Milliseconds until a job and its output go; -1 if they stay."""
    return client.pttl(f"{{backjob}}:job:{job_id}"), client.pttl(f"{{backjob}}:output:{job_id}")


def about(found: tuple[int, int], seconds: float) -> bool:
    """Whether both expire so many seconds from now, and an hour: within a minute."""
    return all(-60_000 < left - (seconds * 1000 + HOUR) <= 0 for left in found)


def test_ended_jobs_expire_an_hour_after_the_ages_that_purge_was_given(client: Any, store: RedisStore) -> None:
    end(store, "before")
    assert expiry(client, "before") == (-1, -1)
    assert store.purge(1000, 5000) == 0
    store.create(draft("living"))
    end(store, "completed")
    end(store, "failed", Status.FAILED)
    end(store, "cancelled", Status.CANCELLED)
    assert client.pttl("{backjob}:job:living") == -1
    for name, age in (("before", 1000), ("completed", 1000), ("failed", 5000), ("cancelled", 5000)):
        assert about(expiry(client, name), age), name


@pytest.mark.parametrize(
    ("ages", "expected"),
    [((0, 7000), (7000, 7000)), ((7000, 0), (7000, None)), ((8000, 7000), (7000, 7000)), ((0, 0), (None, None))],
)
def test_other_ages_set_the_expiry_of_what_has_ended_anew(
    client: Any,
    store: RedisStore,
    monkeypatch: pytest.MonkeyPatch,
    ages: tuple[float, float],
    expected: tuple[float | None, float | None],
) -> None:
    completed_age, failed_age = expected
    monkeypatch.setattr(module, "_SWEPT_AT_ONCE", 10)
    store.purge(1000, 5000)
    for number in range(150):  # a sorted set that is scanned in parts
        end(store, f"{number}", owner="a name longer than 64 bytes, so that the set is no list" + "." * 20)
    end(store, "failed", Status.FAILED)
    store.purge(*ages)
    for name, age in (*[(f"{number}", completed_age) for number in range(150)], ("failed", failed_age)):
        found = expiry(client, name)
        assert found == (-1, -1) if age is None else about(found, age), name


def test_a_sweep_that_was_broken_off_is_made_up_for(
    client: Any, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(store, "job")

    def broken(status: Status) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "_sweep", broken)
        with pytest.raises(StoreUnavailable):
            store.purge(1000, 5000)
    assert expiry(client, "job") == (-1, -1)
    store.purge(1000, 5000)
    assert about(expiry(client, "job"), 1000)


def test_what_has_expired_is_met_nowhere_and_purge_clears_up_behind_it(client: Any) -> None:
    clock = FakeClock()
    store = RedisStore(client, clock=clock)
    for number in range(12):
        end(store, f"{number}", scope="s", owner="o")
    for number in (11, 10, 8, 0):  # as their expiry would
        client.delete(f"{{backjob}}:job:{number}", f"{{backjob}}:output:{number}")
    for query in (Query(limit=4), Query(limit=4, owner="o"), Query(limit=4, scope="s", status=Status.COMPLETED)):
        assert ids(store.find(query)) == ["9", "7", "6", "5"]
    assert store.get("8") is None
    assert store.output("8").text == ""
    assert store.change("8", Expect(), Changes(progress=1)) is None
    assert store.find(Query(before="8")) == []
    clock.advance(100)
    assert store.purge(0, 50) == 8
    assert names(client) == {"layout", "sequence", "ages"}


def test_purge_leaves_nothing_of_a_job(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PURGED_AT_ONCE", 3)
    clock = FakeClock()
    store = RedisStore(client, clock=clock)
    for status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED):
        for number in range(7):
            name = f"{status} {number}"
            store.create(draft(name, scope=f"s{number}", owner=f"o{number}", lessee="me", lease=5), f"key {name}")
            store.change(name, *claimed("token"))
            store.report(name, "token", Report(output="x"))
            store.change(name, Expect(), Changes(status=status, end=True))
    clock.advance(10)
    assert store.purge(5, 5) == 21
    assert names(client) == {"layout", "sequence", "ages"}


def test_the_end_leaves_a_small_hash(client: Any, store: RedisStore) -> None:
    end(store, "job", request=Request("POST", "/work?" + "q" * 100, body=b"b" * 1000), sealed=b"s" * 100)
    assert client.object("encoding", "{backjob}:job:job") == b"listpack"


# --- searches -------------------------------------------------------------------------------------------------------


def looked_at(client: Any, search: Callable[[], object]) -> int:
    """How many jobs the server reads for a search."""
    client.config_resetstat()
    search()
    calls = client.info("commandstats")
    return sum(calls.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("hgetall", "hmget", "hget"))


def _find(store: Store, query: Query, found: list[Job]) -> None:
    found += store.find(query)


def test_no_search_looks_through_the_ended_jobs(client: Any, store: RedisStore) -> None:
    for number in range(300):
        end(store, f"{number}")
    end(store, "mine", Status.FAILED, owner="me", scope="s")
    store.create(draft("living", owner="me", delivery_timeout=0))
    for number in range(300, 400):
        end(store, f"{number}")
    for query, expected in (
        (Query(owner="me"), ["living", "mine"]),
        (Query(scope="s"), ["mine"]),
        (Query(status=Status.STARTED), ["living"]),
        (Query(status=Status.FAILED, scope="s", owner="me"), ["mine"]),
        (Query(status=Status.COMPLETED, owner="me"), []),
        (Query(overdue=True), ["living"]),
        (Query(owner="nobody"), []),
        (Query(limit=3), ["399", "398", "397"]),
        (Query(limit=3, before="living"), ["mine", "299", "298"]),
    ):
        found: list[Job] = []
        count = looked_at(client, partial(_find, store, query, found))
        assert ids(found) == expected, query
        assert count <= 8, query
    assert looked_at(client, lambda: store.take_due("me", 60, 10)) <= 3


@pytest.mark.parametrize("at_once", [1, 2, 3, 7])
def test_a_search_in_many_steps_finds_the_same(
    client: Any, store: RedisStore, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(module, "_LOOKED_AT_AT_ONCE", at_once)
    for number in range(30):
        store.create(draft(f"{number}", scope="ab"[number % 2], owner="opq"[number % 3]))
        if number % 5 == 0:
            store.change(f"{number}", *claimed("token"))
    newest = [str(number) for number in reversed(range(30))]
    assert ids(store.find(Query())) == newest
    assert ids(store.find(Query(before="20", limit=7))) == newest[10:17]
    assert ids(store.find(Query(scope="a", owner="p"))) == [name for name in newest if int(name) % 6 == 4]
    assert ids(store.find(Query(scope="a", owner="p", limit=2))) == ["28", "22"]
    assert ids(store.find(Query(scope="b", status=Status.IN_PROGRESS))) == ["25", "15", "5"]


@pytest.mark.parametrize(
    "changes",
    [claimed("token")[1], ended(cancelled()), Changes(lessee="other", lease=50), Changes(due=50, lease=0)],
)
def test_a_job_whose_lease_ran_out_unnoticed_is_in_one_place(client: Any, changes: Changes) -> None:
    clock = FakeClock()
    store = RedisStore(client, clock=clock)
    store.create(draft(due=10, lessee="me", lease=5))
    clock.advance(6)
    assert store.take_due("me", 5, 5) == []  # not due; that its lease is over was seen
    assert store.change("job", Expect(), changes) is not None
    clock.advance(20)
    assert store.take_due("me", 5, 5) == []
    clock.advance(50)
    assert ids(store.take_due("me", 5, 5)) == ["job"] * (changes.status is UNSET)


# --- the layout -----------------------------------------------------------------------------------------------------

CALLS: Final[dict[str, Callable[[Store], object]]] = {
    "create": lambda store: store.create(draft("other")),
    "get": lambda store: store.get("job"),
    "output": lambda store: store.output("job"),
    "change": lambda store: store.change("job", Expect(), Changes(progress=1)),
    "report": lambda store: store.report("job", "token", Report(output="x")),
    "take_due": lambda store: store.take_due("me", 1, 1),
    "beat": lambda store: store.beat({"job": "token"}),
    "find": lambda store: store.find(Query()),
    "overdue": lambda store: store.find(Query(overdue=True)),
    "purge": lambda store: store.purge(1, 1),
}


@pytest.mark.parametrize("call", CALLS)
def test_another_layout_is_named_and_left_alone(client: Any, store: RedisStore, call: str) -> None:
    store.create(draft())
    store.change("job", *claimed("token"))
    assert client.get("{backjob}:layout") == b"1"
    client.set("{backjob}:layout", "2")
    before = contents(client)
    with pytest.raises(StoreUnusable, match=r"another layout.*choose another prefix"):
        CALLS[call](store)
    assert contents(client) == before


def test_reading_an_empty_server_writes_nothing(client: Any, store: RedisStore) -> None:
    for name in CALLS.keys() - {"create", "purge"}:
        CALLS[name](store)
    store.purge(0, 0)
    assert contents(client) == {}


def test_a_prefix_that_something_else_uses_is_named(client: Any, store: RedisStore) -> None:
    client.set("{backjob}:job:job", "something else")
    for call in (CALLS["get"], CALLS["change"], CALLS["report"]):
        with pytest.raises(StoreUnusable, match=r"\{backjob\}:\*.*under this prefix; choose another"):
            call(store)


@pytest.mark.parametrize("prefix", ["", "{", "a}b", "}{x}", "{}", "a{}b", "{{a}}", "{a}{b}", "a\nb", "a\0", "\ud800"])
def test_a_prefix_that_is_no_name_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        RedisStore(f"redis://127.0.0.1:{CLOSED}", prefix=prefix)
    assert caught.value.argument == "prefix"


# --- clients and URLs -----------------------------------------------------------------------------------------------


def test_the_applications_client_stays_open(client: Any) -> None:
    before = client.client_id()
    store = RedisStore(client)
    store.create(draft())
    store.close()
    assert client.client_id() == before
    assert store.get("job") is not None


def test_connections_of_its_own_are_closed(client: Any, private: PrivateServer) -> None:
    store = open_store(f"{private.url}?client_name=own-{private.port}")
    store.create(draft())

    def own() -> list[Any]:
        return [known for known in client.client_list() if known["name"] == f"own-{private.port}"]

    assert len(own()) == 1
    store.close()
    store.close()
    assert own() == []
    assert store.get("job") is not None
    store.close()


@pytest.mark.parametrize("given", [None, 5, redis.asyncio.Redis(), object()])
def test_another_client_is_refused(given: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        RedisStore(given)
    assert caught.value.argument == "client_or_url"


def test_a_client_that_decodes_is_refused() -> None:
    with Redis(port=CLOSED, decode_responses=True) as client, pytest.raises(InvalidRequest) as caught:
        RedisStore(client)
    assert "decode_responses=False" in caught.value.reason


def test_a_client_of_another_encoding_will_do(private: PrivateServer, client: Any) -> None:
    with Redis(port=private.port, encoding="latin-1", protocol=2) as other:
        RedisStore(other).create(draft("ü€", scope="ß€"))
    job = RedisStore(client).get("ü€")
    assert job is not None
    assert job.scope == "ß€"


def test_urls_open_it(private: PrivateServer, client: Any) -> None:
    path = private.directory / "socket"
    places = f"//127.0.0.1:{private.port}"
    for url in (f"redis:{places}", f"valkey:{places}/0", f"unix://{path}?db=0", f"REDIS:{places}?socket_timeout=3.5"):
        client.flushall()
        with closing(open_store(url)) as store:
            store.create(draft())
        assert client.exists("{backjob}:job:job"), url
    with closing(open_store(f"redis:{places}/3?prefix=shop:%7Bjobs%7D", clock=FakeClock())) as store:
        assert store.create(draft()).created_time == FakeClock().now()
    with Redis(port=private.port, db=3) as other:
        assert other.exists("shop:{jobs}:job:job")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://host/0?durability=power", "'durability'"),
        ("redis://host/0?socket_timeout=long", "socket_timeout"),
        ("redis://host/0?decode_responses=yes", "decode_responses=False"),
        ("redis:host", "redis://host:6379/0"),
        ("redis://:sec/ret@host:6379/0", "percent-encoded"),
        ("rediss://user:secret@host:port/0", "percent-encoded"),
    ],
)
def test_a_url_that_cannot_be_is_refused(url: str, told: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        open_store(url)
    assert caught.value.argument == "store"
    assert told in caught.value.reason
    assert "sec" not in caught.value.reason.replace("seconds", "")


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
def test_a_server_that_is_not_there_is_unavailable(call: str) -> None:
    store = open_store(f"redis://user:secret@127.0.0.1:{CLOSED}/5?prefix=shop")
    with closing(store), pytest.raises(StoreUnavailable) as caught:
        CALLS[call](store)
    text = str(caught.value)
    assert f"127.0.0.1:{CLOSED}/5" in text
    assert "{shop}:*" in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("127.0.0.1:{}/0", "password"),
        (":secret@127.0.0.1:{}/0", "password"),
        ("user:secret@127.0.0.1:{}/0", "password"),
        (":right@127.0.0.1:{}/99", "DB index"),
    ],
)
def test_a_login_or_a_database_that_is_wrong_makes_it_unusable(
    private: PrivateServer, client: Any, location: str, told: str
) -> None:
    client.config_set("requirepass", "right")
    try:
        store = open_store("redis://" + location.format(private.port))
        with closing(store), pytest.raises(StoreUnusable, match=told) as caught:
            store.get("job")
    finally:
        client.config_set("requirepass", "")
    assert "secret" not in str(caught.value)


def test_a_script_that_the_server_forgot_is_sent_again(client: Any, store: RedisStore) -> None:
    store.create(draft())
    store.change("job", *claimed("token"))
    for _ in range(3):
        client.script_flush()
        assert store.report("job", "token", Report(output="x"))
    assert store.output("job").text == "xxx"


def test_a_full_server_is_unavailable_and_nothing_is_half_written(client: Any, store: RedisStore) -> None:
    store.create(draft("job", lessee="me", lease=0.0), "key")
    store.create(draft("running"))
    store.change("running", *claimed("token"))
    before = contents(client)
    client.config_set("maxmemory", 1)
    try:
        for call in (
            lambda: store.create(draft("other"), "other key"),
            lambda: store.report("running", "token", Report(output="x", progress=5)),
            lambda: store.take_due("me", 5, 5),
            lambda: store.change("job", *claimed("token")),
        ):
            try:
                call()
            except StoreUnavailable:
                assert contents(client) == before
            else:  # began by giving memory back: then it is let through to its end
                before = contents(client)
    finally:
        client.config_set("maxmemory", 0)
    assert store.report("running", "token", Report(output="y"))
    assert store.output("running").text == "y"


def test_a_replica_is_unavailable_for_writing(client: Any, store: RedisStore) -> None:
    store.create(draft())
    client.replicaof("127.0.0.1", CLOSED)
    try:
        with pytest.raises(StoreUnavailable, match="read only replica"):
            store.create(draft("other"))
    finally:
        client.replicaof("no", "one")


def test_an_idle_store_does_not_notice_a_restart(private: PrivateServer, client: Any) -> None:
    with closing(open_store(private.url)) as own, Redis(port=private.port) as given:
        stores = (own, RedisStore(given))
        for number, store in enumerate(stores):
            store.create(draft(f"{number}"))
            store.change(f"{number}", *claimed("token"))
        private.kill()
        private.start()
        for number, store in enumerate(stores):
            assert store.report(f"{number}", "token", Report(output="x"))
            assert store.output(f"{number}").text == "x"
        private.kill()
        with pytest.raises(StoreUnavailable):
            own.get("0")
        private.start()
        assert own.get("0") is not None


@pytest.mark.parametrize(
    ("memory", "warned"),
    [(("allkeys-lru", "100mb"), True), (("allkeys-lru", "0"), False), (("noeviction", "100mb"), False)],
)
def test_a_server_that_evicts_is_warned_of_once(
    client: Any, store: RedisStore, caplog: pytest.LogCaptureFixture, memory: tuple[str, str], warned: bool
) -> None:
    policy, limit = memory
    client.config_set("maxmemory-policy", policy)
    client.config_set("maxmemory", limit)
    try:
        with caplog.at_level(logging.WARNING, "backjob"):
            store.create(draft("one"))
            store.create(draft("two"))
    finally:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "0")
    assert [policy in message for message in caplog.messages] == [True] * warned


# --- a server that says what it is told to --------------------------------------------------------------------------


@contextmanager
def answering(answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A server that gives this answer to each EVALSHA and EVAL, or hangs up where it is empty: its port, and what it got."""
    got: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            while line := lines.readline():
                words = []
                for _ in range(int(line[1:])):
                    size = int(lines.readline()[1:])
                    words.append(lines.read(size + 2)[:-2])
                if not words[0].startswith(b"EVAL"):
                    connection.sendall(b"+OK\r\n")
                    continue
                got.append(words[0])
                if not answer:
                    return
                connection.sendall(answer)

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=serve, args=(connection,))
            thread.start()
            threads.append(thread)

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield listening.getsockname()[1], got
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            accepting.join(10)
            for thread in threads:
                thread.join(10)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("LOADING Redis is loading the dataset in memory", StoreUnavailable),
        ("READONLY You can't write against a read only replica.", StoreUnavailable),
        ("MISCONF Redis is configured to save RDB snapshots, but it's unable to persist to disk.", StoreUnavailable),
        ("OOM command not allowed when used memory > 'maxmemory'.", StoreUnavailable),
        ("BUSY Redis is busy running a script.", StoreUnavailable),
        ("CLUSTERDOWN The cluster is down", StoreUnavailable),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", StoreUnavailable),
        ("TRYAGAIN Multiple keys request during rehashing of slot", StoreUnavailable),
        ("NOREPLICAS Not enough good replicas to write.", StoreUnavailable),
        ("ERR max number of clients reached", StoreUnavailable),
        ("MOVED 3999 127.0.0.1:6381", StoreUnusable),
        ("NOPERM User backjob has no permissions to run the 'evalsha' command", StoreUnusable),
        ("NOAUTH Authentication required.", StoreUnusable),
        ("ERR unknown command 'EVALSHA', with args beginning with: ", StoreUnusable),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", StoreUnusable),
        ("ERR something else", StoreUnusable),
    ],
)
def test_what_a_server_answers_is_told_as_what_it_means(answer: str, kind: type[StoreError]) -> None:
    with answering(f"-{answer}\r\n".encode()) as (port, got):
        store = open_store(f"redis://127.0.0.1:{port}?protocol=2")
        with closing(store), pytest.raises(kind):
            store.report("job", "token", Report(output="x"))
    assert got == [b"EVALSHA"]


@pytest.mark.parametrize("own", [True, False])
def test_what_got_no_answer_is_not_sent_again(own: bool) -> None:
    with answering(b"") as (port, got):
        retry = Retry(NoBackoff(), 5)
        with Redis(port=port, protocol=2, retry=retry) as client:
            store = RedisStore(f"redis://127.0.0.1:{port}?protocol=2" if own else client)
            with pytest.raises(StoreUnavailable):
                store.report("job", "token", Report(output="x"))
            store.close()
    assert got == [b"EVALSHA"]
