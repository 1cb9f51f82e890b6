"""The Redis store passes the store contract on a server, and on a Cluster of one node."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any, Final

import pytest
from attrs import evolve
from redis import Connection, Redis
from redis.cluster import RedisCluster
from redis.exceptions import ConnectionError as LostConnection

from backjob.errors import StoreUnavailable
from backjob.lifecycle import claimed, completed, ended
from backjob.model import Draft, Expect, Query, Report, Request
from backjob.protocols import Clock, Store
from backjob.stores.redis import RedisStore
from backjob.testing import StoreContract
from tests.private_servers import REDIS as PRIVATE
from tests.private_servers import Templates, private_server
from tests.services import REDIS, own_name

pytestmark = pytest.mark.services

NAME: Final = own_name()
NUMBERS: Final = count()
DEADLINE: Final = 30  # s


def new_prefix() -> str:
    return f"{NAME}_{next(NUMBERS)}"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The server's URL. The keys of this module's tests are removed at the end."""
    url = REDIS.require()
    yield url
    with Redis.from_url(url) as client:
        for key in client.scan_iter(match=f"{{{NAME}*", count=1000):
            client.unlink(key)


@pytest.mark.usefixtures("server")
class TestRedisStore(StoreContract):
    examples, steps, race_examples = 10, 25, 8

    def make_store(self, clock: Clock) -> Store:
        return RedisStore(REDIS.url, clock=clock, prefix=new_prefix())


@pytest.mark.nightly
@pytest.mark.timeout(600)
class TestRedisStoreAtLength(TestRedisStore):
    only_deeper = True
    examples, steps, race_examples, racers = 100, 50, 100, 16


# --- a Cluster ------------------------------------------------------------------------------------------------------


def _cluster_command(directory: Path, port: int) -> list[str]:
    more = ("--appendonly", "no", "--cluster-enabled", "yes", "--cluster-port", str(port + 10000))
    return [*PRIVATE.command(directory, port), *more]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with Templates.made() as templates, private_server(evolve(PRIVATE, command=_cluster_command), templates) as node:
        with Redis(port=node.port) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            pause, deadline = Event(), time.monotonic() + DEADLINE
            while b"cluster_state:ok" not in bytes(client.eval("return redis.call('CLUSTER', 'INFO')", 0)):
                assert time.monotonic() < deadline, "the Cluster did not start"
                pause.wait(0.02)
        client_of_cluster = RedisCluster(host="127.0.0.1", port=node.port)
        yield client_of_cluster
        client_of_cluster.close()


@pytest.mark.parametrize("prefix", ["backjob", "shop:{jobs}", "{jobs}:shop", "a b", "ü"])
def test_all_keys_are_in_one_slot_of_a_cluster(cluster: RedisCluster, prefix: str) -> None:
    cluster.flushall()
    store = RedisStore(cluster, prefix=prefix)
    for name in ("one", "two", "{three}"):
        request = Request("POST", "/work", body=b"body")
        store.create(Draft(id=name, request=request, scope="{s}", owner="}o{"), f"key {{{name}}}")
    assert len(store.take_due("me", 10, 10)) == 3
    for name in ("one", "two"):
        store.change(name, *claimed("token", 1, 60))
        assert store.report(name, "token", Report(output="text"))
    store.change("one", Expect(), ended(completed()))
    store.purge(3600, 7200)
    assert [job.id for job in store.find(Query())] == ["{three}", "two", "one"]
    keys: Any = cluster.keys()
    assert len(keys) >= 15
    assert len({cluster.cluster_keyslot(key) for key in keys}) == 1
    store.close()
    assert cluster.ping()


def test_a_script_without_an_answer_from_a_cluster_is_not_sent_again(
    cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RedisStore(cluster, prefix=new_prefix())
    store.create(Draft(id="job", request=Request("GET", "/work")))
    store.change("job", *claimed("token", 1, 60))
    read_response: Any = Connection.read_response
    lost: list[Any] = []

    def lose_the_first(connection: Any, *arguments: Any, **options: Any) -> Any:
        answer = read_response(connection, *arguments, **options)
        if answer == 1 and not lost:
            lost.append(answer)
            connection.disconnect()
            raise LostConnection("lost")
        return answer

    monkeypatch.setattr(Connection, "read_response", lose_the_first)
    with pytest.raises(StoreUnavailable):
        store.report("job", "token", Report(output="x"))
    assert store.output("job").text == "x"
    assert store.report("job", "token", Report(output="y"))
    assert store.output("job").text == "xy"


@pytest.mark.nightly
class TestRedisStoreOnACluster(StoreContract):
    examples, steps, race_examples = 30, 30, 20
    client: RedisCluster

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _a_cluster(cls, cluster: RedisCluster) -> None:
        cls.client = cluster

    def make_store(self, clock: Clock) -> Store:
        return RedisStore(self.client, clock=clock, prefix=new_prefix())
