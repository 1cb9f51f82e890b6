"""Visitors, sessions and logins through the WSGI and the ASGI middleware."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starsessions import InMemoryStore
from starsessions import SessionMiddleware as StarsessionsMiddleware

from backjob import BackJob, InvalidRequest, asgi, wsgi
from tests.unit.core import Bench, bench
from tests.unit.gateways import environ_of, scope_of

Fields = dict[str, str]
Page = Callable[[Bench, Fields, Callable[[BackJob], str]], str]


def by_wsgi(world: Bench, fields: Fields, view: Callable[[BackJob], str]) -> str:
    """Return what the view returns when a WSGI server passes a request with these fields."""

    def app(_environ: object, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [view(world.jobs).encode()]

    environ = environ_of(**{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in fields.items()})
    return b"".join(wsgi.BackJobMiddleware(app, world.jobs)(environ, lambda *_: lambda _: None)).decode()


def answers(app: Any, **scope: Any) -> bytes:
    """Return the body of an ASGI application's response."""
    body: list[bytes] = []

    async def send(message: Any) -> None:
        body.append(message.get("body", b""))

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    asyncio.run(app(scope_of(**scope), receive, send))
    return b"".join(body)


def by_asgi(world: Bench, fields: Fields, view: Callable[[BackJob], str]) -> str:
    """Return what the view returns when an ASGI server passes a request with these fields."""

    async def app(_scope: object, _receive: object, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": view(world.jobs).encode()})

    headers = [(b"host", b"shop"), *((name.lower().encode(), value.encode()) for name, value in fields.items())]
    return answers(asgi.BackJobMiddleware(app, world.jobs), headers=headers).decode()


@pytest.mark.parametrize("merge", ["pending", "unfinished"])
@pytest.mark.parametrize("page", [by_wsgi, by_asgi])
def test_a_visitors_double_click_merges_with_himself_only(page: Page, merge: Any) -> None:
    world = bench(owner=lambda request: "")

    def view(jobs: BackJob) -> str:
        return jobs.start("/work", merge=merge, delay=60)

    ann, bob, stranger = {"Cookie": "session=ann"}, {"Cookie": "session=bob"}, {"Cookie": "theme=dark"}
    clicks = [page(world, fields, view) for fields in (ann, bob, ann, bob, stranger, stranger)]
    assert clicks[:2] == clicks[2:4]
    assert len(set(clicks)) == 4
    tokens = [page(world, {"Authorization": f"Bearer {token}"}, view) for token in "abab"]
    assert tokens[:2] == tokens[2:]
    assert len(set(tokens)) == 2


# --- Starlette's sessions -------------------------------------------------------------------------------------------


def shop(world: Bench, *routes: Any, middleware: Any = SessionMiddleware, added: bool = False, **options: Any) -> Any:
    """Return an application in our middleware, which is around it or ``added`` to its own list."""
    app = Starlette(routes=list(routes), middleware=[Middleware(GZipMiddleware), Middleware(middleware, **options)])
    if not added:
        return asgi.BackJobMiddleware(app, world.jobs)
    app.add_middleware(asgi.BackJobMiddleware, jobs=world.jobs)
    return app


def look(world: Bench) -> Any:
    def view(request: Request) -> PlainTextResponse:
        if request.query_params:
            request.session.clear()
            request.session.update(request.query_params)
        return PlainTextResponse(world.jobs.start("/work"))

    return Route("/page", view)


def sent(world: Bench) -> str | None:
    world.step()
    return world.transport.sent[-1].delivery.sign().header("Cookie")


@pytest.mark.parametrize("added", [False, True])
def test_a_job_of_the_view_that_logs_in_gets_starlettes_new_session(added: bool) -> None:
    world = bench()

    def session(request: Request) -> PlainTextResponse:
        return PlainTextResponse(repr(dict(request.session)))

    app = shop(world, look(world), Route("/session", session), added=added, secret_key="s", session_cookie="shop")
    answers(app, query="user=ann")
    anns = sent(world)
    assert anns is not None
    assert answers(app, path="/session", headers=[(b"cookie", anns.encode())]) == b"{'user': 'ann'}"
    answers(app, headers=[(b"cookie", f"a=b; {anns}".encode())])
    assert sent(world) == f"a=b; {anns}"
    answers(app, query="user=bob", headers=[(b"cookie", f"a=b; {anns}".encode())])
    bobs = sent(world)
    assert bobs is not None
    assert answers(app, path="/session", headers=[(b"cookie", bobs.encode())]) == b"{'user': 'bob'}"


def test_after_a_logout_the_job_has_no_session_of_starlette() -> None:
    world = bench()

    def leave(request: Request) -> PlainTextResponse:
        request.session.clear()
        return PlainTextResponse(world.jobs.start("/work"))

    app = shop(world, look(world), Route("/leave", leave), secret_key="s")
    answers(app, query="user=ann")
    answers(app, path="/leave", headers=[(b"cookie", f"{sent(world)}; a=b".encode())])
    assert sent(world) == "a=b"


def test_a_changed_session_whose_middleware_is_unknown_is_refused() -> None:
    world = bench()
    inner = Starlette(routes=[look(world)])
    app = shop(world, Mount("/in", inner), secret_key="s")
    with pytest.raises(InvalidRequest, match="next request") as caught:
        answers(app, path="/in/page", query="user=ann")
    assert caught.value.argument == "as_current_user"
    assert not world.store.calls


def test_a_session_of_starsessions_that_is_not_loaded_does_no_harm() -> None:
    world = bench()
    app = shop(world, look(world), middleware=StarsessionsMiddleware, store=InMemoryStore())
    answers(app, headers=[(b"cookie", b"session=1")])
    assert sent(world) == "session=1"
