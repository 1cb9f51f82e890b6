"""The limits on connections of SQLStore's own engine, without a server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import exc, make_url

from backjob.errors import StoreUnavailable
from backjob.stores.sql import connections as module
from backjob.stores.sql.connections import LimitedConnections

DEADLINE = 60.0  # s


class FakeConnection:
    """A connection to nothing."""

    def close(self) -> None: ...


def limited(connect: Callable[[], Any] = FakeConnection) -> LimitedConnections:
    connections = LimitedConnections(make_url("postgresql://app@127.0.0.1:9/app"), "backjob")
    connections._connect = connect
    return connections


def test_at_most_so_many_connections_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POOL_SIZE", 2)
    monkeypatch.setattr(module, "_POOL_TIMEOUT", 0.01)
    connections = limited()
    full = pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9/app: no connection became free within 0\.01 s")
    with connections.connection(), connections.connection(), full, connections.connection():
        pass
    for _ in range(3):
        with pytest.raises(ValueError, match="failed"), connections.connection():
            raise ValueError("failed")
    with connections.connection(), connections.connection():
        pass


def test_while_the_server_is_down_one_call_connects_and_the_others_fail_at_once() -> None:
    trying, proceed, results = threading.Event(), threading.Event(), list[str]()

    def refused() -> Any:
        raise exc.OperationalError("", {}, Exception("connection refused"))

    def slow() -> Any:
        trying.set()
        assert proceed.wait(DEADLINE)
        return FakeConnection()

    def call() -> None:
        with connections.connection():
            results.append("connected")

    connections = limited(refused)
    with pytest.raises(exc.OperationalError), connections.connection():
        pass
    connections._connect = slow
    thread = threading.Thread(target=call)
    thread.start()
    assert trying.wait(DEADLINE)
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9/app: connection refused"), connections.connection():
            pass
    proceed.set()
    thread.join(DEADLINE)
    assert results == ["connected"]
    with connections.connection(), connections.connection():
        pass
