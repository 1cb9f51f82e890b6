"""`InProcessTransport`: what an application sees that no server calls, and what becomes of it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest
from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from backjob.errors import ConnectionLost, InvalidRequest, NotSent
from backjob.model import Request
from backjob.testing.deliveries import Application, Received
from backjob.testing.transports import PATIENCE, OneDelivery, answer
from backjob.transports.inprocess import InProcessTransport
from backjob.transports.inprocess.transport import interface_of

_word: ContextVar[str] = ContextVar("word", default="")


class Calls:
    """An application of both kinds that keeps the environ or the scope of each request."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def wsgi(self, environ: Any, start_response: Any) -> list[bytes]:
        self.seen.append(environ)
        start_response("200 OK", [])
        return [b"wsgi"]

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        self.seen.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"asgi"})


def exchange(transport: InProcessTransport, request: Request) -> Any:
    return transport.send(OneDelivery(request)).result(PATIENCE)


def environ_for(request: Request, **options: Any) -> Any:
    calls = Calls()
    with closing(InProcessTransport(calls.wsgi, **options)) as transport:
        exchange(transport, request)
    return calls.seen[0]


def scope_for(request: Request, **options: Any) -> Any:
    calls = Calls()
    with closing(InProcessTransport(calls.asgi, **options)) as transport:
        exchange(transport, request)
    return calls.seen[0]


# --- the request ----------------------------------------------------------------------------------------------------


def test_an_environ_has_the_target_as_sent_and_decoded() -> None:
    environ = environ_for(Request("GET", "/a%2Fb/%E2%82%AC?x=%2F&y="))
    assert environ["PATH_INFO"].encode("latin-1").decode() == "/a/b/€"
    assert (environ["QUERY_STRING"], environ["SCRIPT_NAME"]) == ("x=%2F&y=", "")
    assert environ["REQUEST_URI"] == environ["RAW_URI"] == "/a%2Fb/%E2%82%AC?x=%2F&y="


def test_a_scope_has_the_target_as_sent_and_decoded() -> None:
    scope = scope_for(Request("GET", "/a%2Fb/%E2%82%AC?x=%2F&y="))
    assert (scope["path"], scope["raw_path"]) == ("/a/b/€", b"/a%2Fb/%E2%82%AC")
    assert (scope["query_string"], scope["root_path"]) == (b"x=%2F&y=", "")


def test_repeated_fields_are_joined_as_servers_join_them() -> None:
    fields = (("Cookie", "a=1"), ("Cookie", "b=2"), ("X-Tag", "x"), ("x-tag", "y"), ("X_Tag", "forged"))
    environ = environ_for(Request("POST", "/", (*fields, ("Content-Type", "text/plain")), b"abc"))
    assert (environ["HTTP_COOKIE"], environ["HTTP_X_TAG"]) == ("a=1; b=2", "x, y")
    assert (environ["CONTENT_TYPE"], environ["CONTENT_LENGTH"]) == ("text/plain", "3")
    assert environ_for(Request("GET", "/")).get("CONTENT_LENGTH") is None


def test_without_a_starting_request_the_base_url_is_what_the_action_sees() -> None:
    environ = environ_for(Request("GET", "/work"), base_url="https://shop.example:8443/shop")
    assert (environ["HTTP_HOST"], environ["wsgi.url_scheme"]) == ("shop.example:8443", "https")
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/shop", "/work")
    scope = scope_for(Request("GET", "/work"), base_url="https://shop.example:8443/shop")
    assert dict(scope["headers"])[b"host"] == b"shop.example:8443"
    assert (scope["scheme"], scope["root_path"], scope["path"]) == ("https", "/shop", "/shop/work")
    assert scope_for(Request("GET", "/work"))["server"] == ("localhost", 80)


def test_each_call_has_a_fresh_context() -> None:
    seen = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(_word.get())
        _word.set("of the action")
        start_response("200 OK", [])
        return []

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        app({}, lambda *_: None)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    _word.set("of the sender")
    for one in (app, asgi):
        with closing(InProcessTransport(one, threads=1)) as transport:
            exchange(transport, Request("GET", "/"))
            exchange(transport, Request("GET", "/"))
    assert not any(seen)
    assert len(seen) == 4


# --- which kind -----------------------------------------------------------------------------------------------------


class _Delegating:
    """Middleware of ASGI whose ``__call__`` is no coroutine function."""

    def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        return Calls().asgi(scope, receive, send)


@pytest.mark.parametrize(
    ("app", "interface"),
    [
        (Flask("app"), "wsgi"),
        (Flask("app").wsgi_app, "wsgi"),
        (Starlette(), "asgi"),
        (FastAPI(), "asgi"),
        (Calls().wsgi, "wsgi"),
        (Calls().asgi, "asgi"),
        (partial(Calls().asgi), "asgi"),
        (_Delegating(), "asgi"),
        (print, "wsgi"),
    ],
    ids=["flask", "wsgi_app", "starlette", "fastapi", "wsgi", "asgi", "partial", "delegating", "builtin"],
)
def test_the_interface_is_found_out(app: Any, interface: str) -> None:
    assert interface_of(app) == interface


def test_wrong_arguments_are_refused() -> None:
    wrong: list[dict[str, Any]] = [{"threads": 0}, {"threads": True}, {"interface": "cgi"}, {"base_url": "shop"}]
    for options in wrong:
        with pytest.raises(InvalidRequest):
            InProcessTransport(Calls().wsgi, **options)
    with pytest.raises(InvalidRequest, match="app: must be a WSGI or ASGI application, not a str"):
        InProcessTransport("app:app")


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_an_exception_is_a_logged_500_and_the_next_request_runs(
    kind: str, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    errors = [error]

    def respond(start: Callable[[], None]) -> None:
        if errors:
            raise errors.pop()("secret?")
        start()

    def wsgi(environ: Any, start_response: Any) -> list[bytes]:
        respond(lambda: start_response("200 OK", []))
        return []

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        respond(lambda: None)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    with closing(InProcessTransport({"wsgi": wsgi, "asgi": asgi}[kind], threads=1)) as transport:
        assert exchange(transport, Request("GET", "/work?signature=s3cret")).status == 500
        assert exchange(transport, Request("GET", "/work")).status == 200
    assert "GET /work: the application raised" in caplog.text
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_cancelling_does_not_end_the_action(kind: str) -> None:
    application, gate, ended = Application(), threading.Event(), threading.Event()

    def script(call: Received) -> bytes:
        assert gate.wait(PATIENCE)
        ended.set()
        return answer()

    application.script = script
    with closing(InProcessTransport(getattr(application, kind))) as transport:
        future = transport.send(OneDelivery(Request("GET", "/")))
        application.next_call()
        assert future.cancel()
        gate.set()
        assert ended.wait(PATIENCE)


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_close_waits_for_actions_and_nothing_is_sent_afterwards(kind: str) -> None:
    application, gate = Application(), threading.Event()
    application.script = lambda _: answer(body=b"in time") if gate.wait(PATIENCE) else b""
    transport = InProcessTransport(getattr(application, kind), close_timeout=PATIENCE)
    future = transport.send(OneDelivery(Request("GET", "/")))
    application.next_call()
    closer = threading.Thread(target=transport.close)
    closer.start()
    late = OneDelivery(Request("GET", "/late"))
    while not isinstance(transport.send(late).exception(0.05 if late.signed else PATIENCE), NotSent):
        pass
    gate.set()
    closer.join(PATIENCE)
    assert future.result(0).body == b"in time"
    assert (late.signed, application.arrivals.qsize()) == (0, 0)


# --- the lifespan ---------------------------------------------------------------------------------------------------


def test_an_application_starts_up_before_its_first_request_and_shuts_down_at_close() -> None:
    events: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
        events.append("startup")
        yield {"pool": "open"}
        events.append("shutdown")

    async def page(request: StarletteRequest) -> Response:
        events.append(f"{request.state.pool} {threading.current_thread().name}")
        return PlainTextResponse("ok")

    transport = InProcessTransport(Starlette(routes=[Route("/", page)], lifespan=lifespan))
    for _ in range(2):
        assert exchange(transport, Request("GET", "/")).body == b"ok"
    transport.close()
    assert events == ["startup", "open backjob-loop", "open backjob-loop", "shutdown"]


def test_a_failed_startup_says_so_and_the_next_request_tries_again() -> None:
    failures = [OSError("no database")]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if failures:
            raise failures.pop()
        yield

    async def page(request: StarletteRequest) -> Response:
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/", page)], lifespan=lifespan)
    with closing(InProcessTransport(app)) as transport:
        with pytest.raises(NotSent, match=r"the application's startup failed: (.|\n)*no database"):
            transport.start()
        assert exchange(transport, Request("GET", "/")).body == b"ok"


def test_a_lifespan_that_fails_later_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "backjob")
    fails = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await fails.wait()
            raise OSError("the pool is gone")
        fails.set()
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    with closing(InProcessTransport(app)) as transport:
        assert exchange(transport, Request("GET", "/")).status == 204
    assert [record.getMessage() for record in caplog.records] == ["the lifespan of the application ended with an error"]


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_an_application_without_lifespan_has_nothing_to_start(kind: str) -> None:
    with closing(InProcessTransport(getattr(Calls(), kind))) as transport:
        transport.start()
        assert exchange(transport, Request("GET", "/")).body == kind.encode()


def test_requests_of_one_event_loop_run_at_the_same_time() -> None:
    together: list[asyncio.Event] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        together.append(asyncio.Event())
        if len(together) == 3:
            for event in together:
                event.set()
        await together[-1].wait()
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    with closing(InProcessTransport(app)) as transport:
        futures = [transport.send(OneDelivery(Request("GET", "/"))) for _ in range(3)]
        assert [future.result(PATIENCE).status for future in futures] == [204] * 3


def test_a_task_that_ends_the_event_loop_loses_its_requests_and_the_next_one_gets_a_new_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks: list[asyncio.Task[None]] = []

    async def leave() -> None:
        raise SystemExit(3)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        if scope["path"] == "/leave":
            tasks.append(asyncio.create_task(leave()))
            await asyncio.sleep(PATIENCE)
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    with closing(InProcessTransport(app)) as transport:
        assert isinstance(transport.send(OneDelivery(Request("GET", "/leave"))).exception(PATIENCE), ConnectionLost)
        assert exchange(transport, Request("GET", "/")).status == 204
    assert "the event loop of the application ended" in caplog.text
    assert isinstance(tasks[0].exception(), SystemExit)


# --- processes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_a_forked_child_has_threads_of_its_own(kind: str) -> None:
    with closing(InProcessTransport(getattr(Calls(), kind))) as transport:
        exchange(transport, Request("GET", "/"))
        read, write = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of a fork beside threads
            child = os.fork()
        if child == 0:
            try:
                os.write(write, exchange(transport, Request("GET", "/")).body)
            finally:
                os._exit(0)
        os.close(write)
        assert os.read(read, 100) == kind.encode()
        os.close(read)
        os.waitpid(child, 0)
        assert exchange(transport, Request("GET", "/")).body == kind.encode()
