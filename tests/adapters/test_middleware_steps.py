"""The four steps of WSGI, ASGI and Flask; Django's are tested beside its settings."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import flask
import pytest
from typing_extensions import override

from backjob import asgi, wsgi
from backjob.flask import BackJob
from backjob.jobs import LazyEngine
from backjob.model import Headers, Request
from tests.adapters.steps import Adapter, Arena, MiddlewareSteps, environ_of, scope_of


def _serve_wsgi(app: Any, arena: Arena, request: Request) -> tuple[int, Headers]:
    responses: list[tuple[int, Headers]] = []

    def start_response(line: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> Any:
        arena.events.append("respond")
        responses.append((int(line.split(maxsplit=1)[0]), tuple(headers)))

    body = app(arena.arrived(environ_of(request, arena.events)), start_response)
    try:
        list(body)
    finally:
        getattr(body, "close", lambda: None)()
    return responses[0]


def through_wsgi(arena: Arena, request: Request) -> tuple[int, Headers]:
    def app(environ: Any, start_response: Any) -> Any:
        chunks = arena.act(environ["wsgi.input"].read())
        start_response(f"{arena.status} As Set", arena.headers)
        return chunks

    return _serve_wsgi(wsgi.BackJobMiddleware(app, arena.world.jobs), arena, request)


def through_flask(arena: Arena, request: Request, folder: Path) -> tuple[int, Headers]:
    app = flask.Flask("shop", instance_path=str(folder))
    app.secret_key = "of the tests alone: 3f6a0b9d52c84e17"
    BackJob(app)
    app.extensions["backjob"]._lazy = LazyEngine(lambda: arena.world.engine)

    @app.route("/work", methods=["GET", "POST"])
    def work() -> flask.Response:
        chunks = iter(arena.act(flask.request.get_data()))
        return flask.Response(chunks, arena.status, arena.headers, mimetype="application/xhtml+xml")

    @app.after_request
    def record_close(response: flask.Response) -> flask.Response:
        response.call_on_close(lambda: arena.events.append("close"))
        return response

    return _serve_wsgi(app, arena, request)


def through_asgi(arena: Arena, request: Request) -> tuple[int, Headers]:
    responses: list[tuple[int, Headers]] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        chunks = arena.act((await receive())["body"])
        headers = [(name.lower().encode(), value.encode()) for name, value in arena.headers]
        await send({"type": "http.response.start", "status": arena.status, "headers": headers})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        chunks.close()

    async def receive() -> Any:
        arena.events.append("read")
        return {"type": "http.request", "body": request.body, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            arena.events.append("respond")
            headers = tuple((name.decode(), value.decode()) for name, value in message["headers"])
            responses.append((message["status"], headers))

    asyncio.run(asgi.BackJobMiddleware(app, arena.world.jobs)(arena.arrived(scope_of(request)), receive, send))
    return responses[0]


class TestMiddlewareSteps(MiddlewareSteps):
    @override
    @pytest.fixture(params=["wsgi", "asgi", "flask"])
    def adapter(self, request: pytest.FixtureRequest, tmp_path: Path) -> Adapter:
        if request.param == "flask":
            return lambda arena, sent: through_flask(arena, sent, tmp_path)
        return {"wsgi": through_wsgi, "asgi": through_asgi}[request.param]
