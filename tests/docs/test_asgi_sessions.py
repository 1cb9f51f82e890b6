"""The store for starsessions of docs/asgi.md keeps the changes that pages make during a job; without it they are lost."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from backjob import Status
from backjob.asgi import BackJobMiddleware
from tests.docs.pages import ROOT, blocks
from tests.unit.core import Bench, bench
from tests.unit.gateways import scope_of

starsessions = pytest.importorskip("starsessions", reason="the page is about it: pip install -e '.[test]'")

CODE = {block.title: block.code for block in blocks(ROOT / "docs" / "asgi.md") if block.title}
BEFORE = {"cart": [1], "user": "bo"}


@pytest.fixture
def world() -> Bench:
    return bench()


@pytest.fixture
def job_sessions(world: Bench, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class of the page, for the jobs of this world."""
    monkeypatch.setitem(sys.modules, "background", SimpleNamespace(jobs=world.jobs))
    module = ModuleType("job_sessions")
    exec(compile(CODE["job_sessions.py"], "job_sessions.py", "exec"), module.__dict__)
    return module.JobSessions


class Shop:
    """An application with starsessions, and a user's session in its store."""

    def __init__(self, world: Bench, wrap: Callable[[Any], Any]) -> None:
        self._world = world
        self._kept = starsessions.InMemoryStore()
        self._serializer = starsessions.JsonSerializer()
        self._act: Callable[[Any], object] = bool
        inner = starsessions.SessionAutoloadMiddleware(self._endpoint)
        inner = starsessions.SessionMiddleware(inner, wrap(self._kept), cookie_https_only=False)
        self._app = BackJobMiddleware(inner, world.jobs)
        self.store(BEFORE)

    def store(self, session: dict[str, Any]) -> None:
        """What a page stores."""
        self._kept.data = {"bo": self._serializer.serialize(session)} if session else {}

    def session(self) -> dict[str, Any]:
        found = self._serializer.deserialize(self._kept.data.get("bo", b""))
        return {name: value for name, value in found.items() if name != "__metadata__"}

    def job(self, act: Callable[[Any], object]) -> None:
        """Run a job as the user, whose action this is."""
        self._act = act
        job_id = self._world.start(headers={"Cookie": "session=bo"})
        self._world.step()
        request = self._world.transport.sent[-1].delivery.sign()
        headers = [(name.lower().encode(), value.encode()) for name, value in request.headers]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            """Drop the response."""

        asyncio.run(self._app(scope_of(request.path, request.query, headers=headers), receive, send))
        assert self._world.job(job_id).status is Status.COMPLETED

    async def _endpoint(self, scope: Any, receive: Any, send: Any) -> None:
        self._act(scope["session"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def test_without_the_store_of_the_page_a_job_writes_the_old_session_back(world: Bench) -> None:
    shop = Shop(world, lambda store: store)
    shop.job(lambda session: shop.store({**BEFORE, "cart": [1, 2]}))
    assert shop.session() == BEFORE


def test_changes_of_the_job_and_of_pages_both_stay(world: Bench, job_sessions: Callable[[Any], Any]) -> None:
    shop = Shop(world, job_sessions)

    def act(session: dict[str, Any]) -> None:
        shop.store({**BEFORE, "cart": [1, 2], "page": 1})
        session["mine"] = 1
        del session["user"]

    shop.job(act)
    assert shop.session() == {"cart": [1, 2], "page": 1, "mine": 1}
    shop.job(lambda session: shop.store({"page": 2}))
    assert shop.session() == {"page": 2}


def test_a_logout_during_a_job_lasts(world: Bench, job_sessions: Callable[[Any], Any]) -> None:
    shop = Shop(world, job_sessions)

    def act(session: dict[str, Any]) -> None:
        shop.store({})
        session["mine"] = 1

    shop.job(act)
    assert shop.session() == {}


def test_a_job_may_end_the_session(world: Bench, job_sessions: Callable[[Any], Any]) -> None:
    shop = Shop(world, job_sessions)
    shop.job(lambda session: session.clear())
    assert shop.session() == {}
