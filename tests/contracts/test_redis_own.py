"""The Redis store beyond the contract: the server's clock, purges, layout, clients and URLs, errors, no retries."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import redis.asyncio
from attrs import evolve
from redis import BlockingConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from backjob.errors import InvalidRequest, SlotTaken, StoreError, StoreUnavailable, StoreUnusable
from backjob.lifecycle import cancelled, claimed, completed, continued, ended, failed, requeued
from backjob.model import UNSET, Changes, Draft, Expect, Job, Query, Report, Request, Status
from backjob.protocols import Store
from backjob.stores import open_store
from backjob.stores.columns import LAYOUTS
from backjob.stores.redis import RedisStore
from backjob.stores.redis import server as server_module
from backjob.stores.redis import store as module
from backjob.stores.rows import microseconds
from backjob.testing import FakeClock
from tests.private_servers import REDIS as PRIVATE
from tests.private_servers import PrivateServer, Templates, private_server

pytestmark = pytest.mark.services

DEADLINE: Final = 60.0  # s
CLOSED: Final = 1
"""A port without a listener."""


def _command(directory: Path, port: int) -> list[str]:
    """With a Unix socket too, and faster: written data survives a kill of the server, but not a crash of the machine."""
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
    """A client of an empty server that no other test uses meanwhile."""
    with Redis(port=private.port) as client:
        client.flushall()
        yield client


@pytest.fixture
def store(client: Any) -> RedisStore:
    return RedisStore(client)


_SECOND: Final = tuple(column.name for column in LAYOUTS[0])
_THIRD: Final = tuple(column.name for column in LAYOUTS[1])
_FOURTH: Final = tuple(column.name for column in LAYOUTS[2])


def draft(job_id: str = "job", **fields: Any) -> Draft:
    return Draft(id=job_id, **{"request": Request("GET", "/work"), **fields})


def end(store: Store, job_id: str, status: Status = Status.COMPLETED, **fields: Any) -> None:
    """Create a job that has written output and has ended."""
    ends = {Status.COMPLETED: completed(), Status.FAILED: failed("broken"), Status.CANCELLED: cancelled()}
    store.create(draft(job_id, **fields))
    store.change(job_id, *claimed("token", 1, 60))
    store.report(job_id, "token", Report(output="text"))
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


def test_the_stores_time_is_the_servers(client: Any, store: RedisStore) -> None:
    before = server_now(client)
    job = store.create(draft(due=-0.25, expires=7.000001, lessee="me", lease=0.5))
    claimed_job = store.change("job", *claimed("token", 1, 60))
    read = store.get("job")
    after = server_now(client)
    assert read is not None
    assert claimed_job is not None
    assert before < job.created_time < claimed_job.updated_time == claimed_job.read_time < read.read_time < after
    assert claimed_job.claimed_time == claimed_job.read_time
    assert read.created_time == job.created_time == job.updated_time
    assert job.start_time - job.created_time == timedelta(seconds=-0.25)
    assert job.expires is not None
    assert job.expires - job.created_time == timedelta(seconds=7.000001)
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
    "fields", [{"due": 1e13}, {"due": -1e11}, {"expires": 2.6e11}, {"error_timeout": 2.6e11}, {"lease": -1e11}]
)
def test_a_moment_outside_of_the_calendar_is_refused(client: Any, store: RedisStore, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        store.create(draft(**fields))
    assert contents(client) == {}


# --- purging --------------------------------------------------------------------------------------------------------


def test_an_evicted_job_is_unknown_and_purge_removes_its_entries(client: Any) -> None:
    clock = FakeClock()
    store = RedisStore(client, clock=clock)
    for number in range(12):
        end(store, f"{number}", scope="s", owner="o")
    for number in (11, 10, 8, 0):
        client.delete(f"{{backjob}}:job:{number}", f"{{backjob}}:output:{number}")
    for query in (Query(limit=4), Query(limit=4, owner="o"), Query(limit=4, scope="s", status=Status.COMPLETED)):
        assert ids(store.find(query)) == ["9", "7", "6", "5"]
    assert store.get("8") is None
    assert store.output("8").text == ""
    assert store.change("8", Expect(), Changes(progress=1)) is None
    assert store.find(Query(before="8")) == []
    clock.advance(100)
    assert store.purge(0, 50) == 8
    assert names(client) == {"layout", "sequence"}


def test_purge_removes_every_key_and_entry_of_a_job(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PURGE_BATCH", 3)
    clock = FakeClock()
    store = RedisStore(client, clock=clock)
    for status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED):
        for number in range(7):
            name = f"{status} {number}"
            store.create(draft(name, scope=f"s{number}", owner=f"o{number}", lessee="me", lease=5), f"key {name}")
            store.change(name, *claimed("token", 1, 60))
            store.report(name, "token", Report(output="x"))
            store.change(name, Expect(), Changes(status=status, end=True))
    clock.advance(10)
    assert store.purge(5, 5) == 21
    assert names(client) == {"layout", "sequence"}


def test_delete_removes_every_key_and_entry_of_a_job(client: Any) -> None:
    store = RedisStore(client, clock=FakeClock())
    for name in ("waiting", "leased", "moved", "slot", "running", "ended", "filed", "kept", "evicted"):
        lease = {"lessee": "me", "lease": 5.0} if name == "leased" else {}
        request = Request("PUT", "/work", body=b"body")
        store.create(draft(name, scope="s", owner="o", root="r", queue="q", request=request, **lease), f"key {name}")
    store.change("moved", Expect(), Changes(lessee="me", lease=-1))
    store.take_due("other", -1, 1)
    store.change("slot", Expect(), Changes(slot="q/0"))
    for name in ("running", "ended", "filed", "kept", "evicted"):
        store.change(name, *claimed("token", 1, 60))
        store.report(name, "token", Report(output="x", truncated=True, tail="y"))
    for name in ("ended", "filed", "kept"):
        kept = name == "kept"
        file = {"name": "rows.csv"} if name == "filed" else None
        store.change(
            name, Expect(), Changes(status=Status.FAILED, end=True, file=file, keep_key=kept, keep_request=kept)
        )
    jobs = ["waiting", "leased", "moved", "slot", "running", "ended", "filed", "kept"]
    store.take_due("me", -1, 0)
    assert [store.delete(name) for name in jobs] == [True] * len(jobs)
    left = {name: client.type(f"{{backjob}}:{name}") for name in names(client)}
    client.delete("{backjob}:job:evicted")
    assert store.delete("evicted") is False
    assert {name for name in left if "evicted" not in name} == names(client), (
        "only the entries of the evicted job are left"
    )
    store.create(draft("next", scope="s", owner="o", root="r", queue="q"), "key kept")
    assert ids(store.find(Query())) == ids(store.find(Query(owner="o"))) == ["next"]
    store.delete("next")


def test_purge_leaves_jobs_with_a_file_and_removes_every_other_key(client: Any) -> None:
    clock = FakeClock()
    store = RedisStore(client, clock=clock)
    for number in range(20):
        store.create(draft(f"{number}"), f"key {number}")
        store.change(f"{number}", *claimed("token", 1, 60))
        store.report(f"{number}", "token", Report(truncated=True, tail="y"))
        file = {"name": "a"} if number == 7 else None
        store.change(f"{number}", Expect(), Changes(status=Status.FAILED, end=True, file=file, keep_key=True))
    clock.advance(10)
    assert store.purge(5, 5) == 19
    query = Query(expired=(5, 5), has_file=True)
    assert ids(store.find(query)) == ["7"]
    assert client.hgetall("{backjob}:merge") == {b"key 7": b"7"}
    assert store.delete("7")
    assert store.find(query) == []
    assert names(client) == {"layout", "sequence"}


def test_a_search_for_old_files_reads_only_jobs_with_a_file(client: Any) -> None:
    clock = FakeClock()
    store = RedisStore(client, clock=clock)
    for number in range(50):
        end(store, f"{number}")
    store.change("3", Expect(), Changes(file={"name": "a"}))
    clock.advance(10)
    assert jobs_read(client, lambda: store.find(Query(expired=(5, 5), has_file=True))) <= 3


def test_an_ended_job_is_a_small_hash(client: Any, store: RedisStore) -> None:
    end(store, "job", request=Request("POST", "/work?" + "q" * 100, body=b"b" * 1000), sealed=b"s" * 100)
    assert client.object("encoding", "{backjob}:job:job") == b"listpack"


# --- searches -------------------------------------------------------------------------------------------------------


def jobs_read(client: Any, search: Callable[[], object]) -> int:
    """The number of jobs that the server reads for a search."""
    client.config_resetstat()
    search()
    calls = client.info("commandstats")
    return sum(calls.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("hgetall", "hmget", "hget"))


def _find(store: Store, query: Query, found: list[Job]) -> None:
    found += store.find(query)


def test_no_search_reads_all_ended_jobs(client: Any, store: RedisStore) -> None:
    for number in range(300):
        end(store, f"{number}")
    end(store, "mine", Status.FAILED, owner="me", scope="s")
    store.create(draft("living", owner="me", expires=0))
    for number in range(300, 400):
        end(store, f"{number}")
    for query, expected in (
        (Query(owner="me"), ["living", "mine"]),
        (Query(scope="s"), ["mine"]),
        (Query(status=Status.STARTED), ["living"]),
        (Query(status=Status.FAILED, scope="s", owner="me"), ["mine"]),
        (Query(status=Status.COMPLETED, owner="me"), []),
        (Query(overdue=True), ["living"]),
        (Query(owner="other"), []),
        (Query(limit=3), ["399", "398", "397"]),
        (Query(limit=3, before="living"), ["mine", "299", "298"]),
    ):
        found: list[Job] = []
        count = jobs_read(client, partial(_find, store, query, found))
        assert ids(found) == expected, query
        assert count <= 8, query
    assert jobs_read(client, lambda: store.take_due("me", 60, 10)) <= 3


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_a_search_in_small_batches_finds_the_same(
    client: Any, store: RedisStore, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(module, "_SEARCH_BATCH", batch)
    for number in range(30):
        store.create(draft(f"{number}", scope="ab"[number % 2], owner="opq"[number % 3]))
        if number % 5 == 0:
            store.change(f"{number}", *claimed("token", 1, 60))
    newest = [str(number) for number in reversed(range(30))]
    assert ids(store.find(Query())) == newest
    assert ids(store.find(Query(before="20", limit=7))) == newest[10:17]
    assert ids(store.find(Query(scope="a", owner="p"))) == [name for name in newest if int(name) % 6 == 4]
    assert ids(store.find(Query(scope="a", owner="p", limit=2))) == ["28", "22"]
    assert ids(store.find(Query(scope="b", status=Status.IN_PROGRESS))) == ["25", "15", "5"]


@pytest.mark.parametrize(
    "changes",
    [claimed("token", 1, 60)[1], ended(cancelled()), Changes(lessee="other", lease=50), Changes(due=50, lease=0)],
)
def test_a_job_whose_lease_has_expired_has_one_entry(client: Any, changes: Changes) -> None:
    clock = FakeClock()
    store = RedisStore(client, clock=clock)
    store.create(draft(due=10, lessee="me", lease=5))
    clock.advance(6)
    assert store.take_due("me", 5, 5) == []  # not due, but moved to the waiting jobs
    assert store.change("job", Expect(), changes) is not None
    clock.advance(20)
    assert store.take_due("me", 5, 5) == []
    clock.advance(50)
    assert ids(store.take_due("me", 5, 5)) == ["job"] * (changes.status is UNSET)


# --- queues, slots and leases ---------------------------------------------------------------------------------------


def scripts_run(client: Any, calls: Callable[[], object]) -> int:
    """The number of round trips to the server that the store's calls make."""
    client.config_resetstat()
    calls()
    return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])


def test_each_write_of_a_run_is_one_round_trip(client: Any, store: RedisStore) -> None:
    names = [f"{number}" for number in range(1000)]

    def work() -> None:
        for name in names:
            store.change(name, *claimed("token", 1, 60))
            store.report(name, "token", Report(output="x", cursor=5))

    for name in names:
        store.create(draft(name))
    store.beat({}, 60, frozenset())
    work()
    assert scripts_run(client, lambda: store.report("0", "token", Report(cursor=[1, 2]))) == 1
    tokens = {**dict.fromkeys(names, "token"), "7": "other"}
    assert scripts_run(client, lambda: store.beat(tokens, 60, frozenset(names))) == 1
    job = store.get("0")
    assert job is not None
    assert (
        scripts_run(client, lambda: store.change("0", Expect(token="token"), requeued(job, continued(), job.read_time)))
        == 1
    )
    assert scripts_run(client, lambda: store.change("0", *claimed("next", 2, 60))) == 1
    assert scripts_run(client, lambda: store.change("0", Expect(token="next"), ended(completed()))) == 1


def test_a_full_queue_is_not_read(client: Any, store: RedisStore) -> None:
    for number in range(300):
        store.create(draft(f"{number}", queue="exports"))
    store.create(draft("other", queue="mail"))
    found: list[Job] = []

    def take() -> None:
        found.extend(store.take_due("me", 60, 10, None, frozenset({"exports"})))

    assert jobs_read(client, take) <= 3
    assert ids(found) == ["other"]


def test_queues_of_any_name_are_kept_apart(store: RedisStore) -> None:
    queues = ["default", "", "*", "a@b", "a", "1:a", "ü", "7:exports", "exports"]
    for label in ("", "b", "a@b"):
        for queue in queues:
            store.create(draft(f"{label} {queue}", queue=queue, label=label))
    for label in ("", "b", "a@b"):
        for queue in queues:
            taken = store.take_due("me", 60, 50, frozenset({label}), frozenset(queues) - {queue})
            assert ids(taken) == [f"{label} {queue}"]


def test_ended_jobs_leave_no_slot_lane_or_limit(client: Any) -> None:
    clock = FakeClock()
    store = RedisStore(client, clock=clock)
    for number in range(5):
        name = f"{number}"
        store.create(draft(name, queue="exports", lessee="me", lease=5, expires=100))
        assert store.change(name, Expect(unclaimed=True), Changes(slot=f"exports/{number}", lease=None)) is not None
        assert len(store.take_due("me", 5, 5)) == 1
        store.change(name, *claimed("token", 1, 60))
        assert store.beat({name: "token"}, 60, frozenset()) == frozenset()
    assert names(client) >= {"slots", "limits", "lanes"}
    for number in range(5):
        store.change(f"{number}", Expect(token="token"), ended(completed()))
    assert store.take_due("me", 5, 5) == []
    assert not names(client) & {"slots", "limits", "lanes", "leased", "waiting", "waiting:*", "waiting:7:exports"}


def test_the_slot_of_an_evicted_job_is_free(client: Any, store: RedisStore) -> None:
    for name in ("evicted", "next", "late"):
        store.create(draft(name))
    assert store.change("evicted", Expect(), Changes(slot="exports/0")) is not None
    client.delete("{backjob}:job:evicted")
    assert store.change("next", Expect(), Changes(slot="exports/0")) is not None
    before = contents(client)
    with pytest.raises(SlotTaken) as caught:
        store.change("late", Expect(), Changes(slot="exports/0", progress=5))
    assert caught.value.slot == "exports/0"
    assert contents(client) == before


def test_a_beat_waits_for_no_connection_of_the_application(private: PrivateServer, client: Any) -> None:
    kind: Any = BlockingConnectionPool
    pool = kind(max_connections=1, timeout=DEADLINE, port=private.port)
    store = RedisStore(Redis(connection_pool=pool))
    store.create(draft())
    store.change("job", *claimed("token", 1, 60))
    kept = pool.get_connection()  # another thread's, for as long as it likes
    try:
        for _ in range(3):
            assert store.beat({"job": "token", "other": "token"}, 60, frozenset()) == {"other"}
            client.script_flush()
    finally:
        pool.release(kept)
        store.close()
        pool.disconnect()


@pytest.mark.parametrize(("given", "expected"), [(None, 5), (60, 5), (2, 2)])
def test_a_beat_waits_for_an_answer_for_five_seconds_at_most(given: float | None, expected: float) -> None:
    with Redis(port=CLOSED, socket_timeout=given) as client:
        pool = server_module._pool_apart(client.connection_pool)
    connection: Any = pool.make_connection()
    assert connection.socket_timeout == expected


# --- the layout -----------------------------------------------------------------------------------------------------

CALLS: Final[dict[str, Callable[[Store], object]]] = {
    "create": lambda store: store.create(draft("other")),
    "get": lambda store: store.get("job"),
    "output": lambda store: store.output("job"),
    "change": lambda store: store.change("job", Expect(), Changes(progress=1)),
    "report": lambda store: store.report("job", "token", Report(output="x")),
    "take_due": lambda store: store.take_due("me", 1, 1),
    "beat": lambda store: store.beat({"job": "token"}, 1, frozenset({"job"})),
    "find": lambda store: store.find(Query()),
    "overdue": lambda store: store.find(Query(overdue=True)),
    "delete": lambda store: store.delete("job"),
    "purge": lambda store: store.purge(1, 1),
}


@pytest.mark.parametrize("call", CALLS)
def test_another_layout_is_refused_and_not_changed(client: Any, store: RedisStore, call: str) -> None:
    store.create(draft())
    store.change("job", *claimed("token", 1, 60))
    assert client.get("{backjob}:layout") == b"4"
    client.set("{backjob}:layout", "5")
    before = contents(client)
    with pytest.raises(StoreUnusable, match=r"another layout.*choose another prefix"):
        CALLS[call](store)
    assert contents(client) == before


@pytest.mark.parametrize(
    ("layout", "lacking"), [("1", _SECOND + _THIRD + _FOURTH), ("2", _THIRD + _FOURTH), ("3", _FOURTH)]
)
def test_jobs_of_an_earlier_layout_stay(client: Any, layout: str, lacking: Sequence[str]) -> None:
    clock = FakeClock()
    store = RedisStore(client, clock=clock)
    for name in ("waiting", "late"):
        store.create(draft(name, expires=30))
    store.create(draft("running", error_timeout=40))
    store.change("running", *claimed("token", 1, 60))
    end(store, "over")
    for job_id in ("waiting", "late", "running", "over"):
        key = f"{{backjob}}:job:{job_id}"
        if expires := client.hget(key, "expires"):
            client.hset(key, "deliver_by", expires)  # which each job had
        client.hdel(key, *lacking)
    client.hdel("{backjob}:job:running", "lease_until")
    running = store.get("running")
    assert running is not None
    member = next(each for each in client.zrange("{backjob}:limits", 0, -1) if each.endswith(b"running"))
    client.zadd("{backjob}:limits", {member: microseconds(running.updated_time + timedelta(seconds=40))})
    client.set("{backjob}:layout", layout)

    mine = frozenset(("mine",))
    assert ids(store.find(Query())) == ["over", "running", "late", "waiting"]
    assert store.find(Query(labels=mine)) == store.take_due("me", 60, 5, mine) == []
    job = store.get("waiting")
    assert job is not None
    assert (job.label, job.proof, job.root, job.waiting_for) == ("", None, None, None)
    assert (job.run, job.delivery, job.retries, job.queue, job.slot) == (1, 1, 0, "default", None)
    assert (job.cursor, job.history, job.claimed_time, job.as_owner) == (None, None, None, False)
    assert (job.expires is None) is (layout != "3")
    assert (job.title, job.method, job.path, job.keep_request, job.file) == (None, "GET", "/work", False, None)
    assert client.get("{backjob}:layout") == layout.encode(), "reading changes nothing"
    assert store.change("waiting", *claimed("token", 1, 60)) is not None
    assert client.get("{backjob}:layout") == b"4", "processes of an earlier version refuse the keys from now on"
    store.create(draft("new", label="mine"))
    assert ids(store.find(Query(labels=mine))) == ids(store.take_due("me", 60, 5, mine)) == ["new"]
    clock.advance(30)
    assert ids(store.find(Query(overdue=True))) == ["late"]
    clock.advance(10)
    assert ids(store.find(Query(overdue=True))) == ["running", "late"], "without a run lease only its silence counts"
    assert store.beat({"running": "token"}, 60, frozenset({"running"})) == frozenset()
    assert ids(store.find(Query(overdue=True))) == ["late"]
    assert ids(store.take_due("me", 60, 5, None, frozenset({"default"}))) == []
    assert ids(store.take_due("me", 60, 5)) == ["late"]
    clock.advance(60)
    assert store.purge(50, 50, mine) == 0
    assert store.purge(50, 50, mine | {""}) == 1


def test_only_a_delivery_reads_the_body_of_a_request(client: Any, store: RedisStore) -> None:
    size = 20_000_000
    store.create(draft(request=Request("POST", "/work", body=bytes(size))))
    client.config_resetstat()
    store.get("job")
    store.find(Query())
    store.count(Query())
    store.change("job", Expect(), Changes(progress=1))
    # HGETALL within a script would copy the body too, without sending it.
    assert "cmdstat_hgetall" not in client.info("commandstats")
    assert client.info("stats")["total_net_output_bytes"] < size / 100
    job = store.get("job", body=True)
    assert job is not None
    assert job.request is not None
    assert len(job.request.body) == size


def test_reading_an_empty_server_writes_nothing(client: Any, store: RedisStore) -> None:
    for name in CALLS.keys() - {"create"}:
        CALLS[name](store)
    assert contents(client) == {}


def test_a_prefix_that_other_software_uses_is_refused(client: Any, store: RedisStore) -> None:
    client.set("{backjob}:job:job", "something else")
    for call in (CALLS["get"], CALLS["change"], CALLS["report"]):
        with pytest.raises(
            StoreUnusable, match=r"\{backjob\}:\*.*other software uses keys with this prefix; choose another"
        ):
            call(store)


@pytest.mark.parametrize("prefix", ["", "{", "a}b", "}{x}", "{}", "a{}b", "{{a}}", "{a}{b}", "a\nb", "a\0", "\ud800"])
def test_an_invalid_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        RedisStore(f"redis://127.0.0.1:{CLOSED}", prefix=prefix)
    assert caught.value.argument == "prefix"


# --- clients and URLs -----------------------------------------------------------------------------------------------


def test_close_leaves_the_applications_client_open(client: Any) -> None:
    before = client.client_id()
    store = RedisStore(client)
    store.create(draft())
    store.close()
    assert client.client_id() == before
    assert store.get("job") is not None


def test_close_closes_the_stores_own_connections(client: Any, private: PrivateServer) -> None:
    store = open_store(f"{private.url}?client_name=own-{private.port}")
    store.create(draft())

    def own() -> list[Any]:
        return [known for known in client.client_list() if known["name"] == f"own-{private.port}"]

    assert len(own()) == 1
    store.close()
    store.close()
    pause, deadline = threading.Event(), time.monotonic() + DEADLINE
    while own():  # the server may notice the end of a connection after it answers this
        assert time.monotonic() < deadline, "the store left a connection open"
        pause.wait(0.01)
    assert store.get("job") is not None
    store.close()


@pytest.mark.parametrize("given", [None, 5, redis.asyncio.Redis(), object()])
def test_anything_but_a_client_or_a_url_is_refused(given: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        RedisStore(given)
    assert caught.value.argument == "client_or_url"


def test_a_client_that_decodes_is_refused() -> None:
    with Redis(port=CLOSED, decode_responses=True) as client, pytest.raises(InvalidRequest) as caught:
        RedisStore(client)
    assert "decode_responses=False" in caught.value.reason


def test_a_client_with_another_encoding_is_accepted(private: PrivateServer, client: Any) -> None:
    with Redis(port=private.port, encoding="latin-1", protocol=2) as other:
        RedisStore(other).create(draft("ü€", scope="ß€"))
    job = RedisStore(client).get("ü€")
    assert job is not None
    assert job.scope == "ß€"


def test_a_url_opens_the_store(private: PrivateServer, client: Any) -> None:
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
    ("url", "text"),
    [
        ("redis://host/0?durability=power", "'durability'"),
        ("redis://host/0?socket_timeout=long", "socket_timeout"),
        ("redis://host/0?decode_responses=yes", "decode_responses=False"),
        ("redis:host", "redis://host:6379/0"),
        ("redis://:sec/ret@host:6379/0", "percent-encoded"),
        ("rediss://user:secret@host:port/0", "percent-encoded"),
    ],
)
def test_an_invalid_url_is_refused(url: str, text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        open_store(url)
    assert caught.value.argument == "store"
    assert text in caught.value.reason
    assert "sec" not in caught.value.reason.replace("seconds", "")


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
def test_each_call_fails_while_the_server_is_down(call: str) -> None:
    store = open_store(f"redis://user:secret@127.0.0.1:{CLOSED}/5?prefix=shop")
    with closing(store), pytest.raises(StoreUnavailable) as caught:
        CALLS[call](store)
    text = str(caught.value)
    assert f"127.0.0.1:{CLOSED}/5" in text
    assert "{shop}:*" in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("location", "text"),
    [
        ("127.0.0.1:{}/0", "password"),
        (":secret@127.0.0.1:{}/0", "password"),
        ("user:secret@127.0.0.1:{}/0", "password"),
        (":right@127.0.0.1:{}/99", "DB index"),
    ],
)
def test_a_wrong_login_or_database_makes_the_store_unusable(
    private: PrivateServer, client: Any, location: str, text: str
) -> None:
    client.config_set("requirepass", "right")
    try:
        store = open_store("redis://" + location.format(private.port))
        with closing(store), pytest.raises(StoreUnusable, match=text) as caught:
            store.get("job")
    finally:
        client.config_set("requirepass", "")
    assert "secret" not in str(caught.value)


def test_a_flushed_script_is_sent_again(client: Any, store: RedisStore) -> None:
    store.create(draft())
    store.change("job", *claimed("token", 1, 60))
    for _ in range(3):
        client.script_flush()
        assert store.report("job", "token", Report(output="x"))
    assert store.output("job").text == "xxx"


def test_a_call_to_a_full_server_is_refused_as_a_whole(client: Any, store: RedisStore) -> None:
    store.create(draft("job", lessee="me", lease=0.0), "key")
    store.create(draft("running"))
    store.change("running", *claimed("token", 1, 60))
    before = contents(client)
    client.config_set("maxmemory", 1)
    try:
        for call in (
            lambda: store.create(draft("other"), "other key"),
            lambda: store.report("running", "token", Report(output="x", progress=5)),
            lambda: store.take_due("me", 5, 5),
            lambda: store.change("job", *claimed("token", 1, 60)),
        ):
            try:
                call()
            except StoreUnavailable:
                assert contents(client) == before
            else:  # a script that first frees memory runs to its end
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


def test_a_restart_of_the_server_fails_no_later_call(private: PrivateServer, client: Any) -> None:
    with closing(open_store(private.url)) as own, Redis(port=private.port) as given:
        stores = (own, RedisStore(given))
        for number, store in enumerate(stores):
            store.create(draft(f"{number}"))
            store.change(f"{number}", *claimed("token", 1, 60))
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


def test_the_store_reads_the_servers_eviction_policy(client: Any, store: RedisStore) -> None:
    assert store.eviction_policy() == "noeviction"
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert store.eviction_policy() == "allkeys-lru"
    finally:
        client.config_set("maxmemory-policy", "noeviction")


def test_an_eviction_policy_that_the_server_does_not_show_is_empty(private: PrivateServer, client: Any) -> None:
    client.execute_command(
        "ACL", "SETUSER", "app", "on", ">secret", "~{backjob}*", "+eval", "+evalsha", "+get", "+time"
    )
    try:
        with closing(RedisStore(f"redis://app:secret@127.0.0.1:{private.port}")) as store:
            assert store.eviction_policy() == ""
    finally:
        client.execute_command("ACL", "DELUSER", "app")


# --- a server with prepared answers ---------------------------------------------------------------------------------


@contextmanager
def answering(answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """The port of a server that answers EVALSHA and EVAL with ``answer``, or hangs up if it is empty, and its requests."""
    requests: list[bytes] = []

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
                requests.append(words[0])
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
            yield listening.getsockname()[1], requests
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
def test_an_error_of_the_server_is_translated_by_its_meaning(answer: str, kind: type[StoreError]) -> None:
    with answering(f"-{answer}\r\n".encode()) as (port, requests):
        store = open_store(f"redis://127.0.0.1:{port}?protocol=2")
        with closing(store), pytest.raises(kind):
            store.report("job", "token", Report(output="x"))
    assert requests == [b"EVALSHA"]


@pytest.mark.parametrize("own", [True, False])
def test_a_script_without_an_answer_is_not_sent_again(own: bool) -> None:
    with answering(b"") as (port, requests):
        retry = Retry(NoBackoff(), 5)
        with Redis(port=port, protocol=2, retry=retry) as client:
            store = RedisStore(f"redis://127.0.0.1:{port}?protocol=2" if own else client)
            with pytest.raises(StoreUnavailable):
                store.report("job", "token", Report(output="x"))
            store.close()
    assert requests == [b"EVALSHA"]
