"""The four steps of Django's middleware, in a thread and in an event loop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, StreamingHttpResponse
from typing_extensions import override

from backjob.django import jobs
from backjob.django.middleware import BackJobMiddleware
from backjob.jobs import LazyEngine
from backjob.model import Headers, Request
from tests.adapters.steps import Adapter, Arena, Body, MiddlewareSteps, environ_of, scope_of


def _respond(arena: Arena, request: HttpRequest) -> StreamingHttpResponse:
    content_type = "application/xhtml+xml"  # a page, of which nothing is kept
    chunks, headers = arena.act(request.body), dict(arena.headers)
    return StreamingHttpResponse(chunks, status=arena.status, headers=headers, content_type=content_type)


def _answer(arena: Arena, response: Any) -> tuple[int, Headers]:
    arena.events.append("respond")
    return response.status_code, tuple(response.items())


def in_thread(arena: Arena, request: Request) -> tuple[int, Headers]:
    middleware: Any = BackJobMiddleware(lambda request: _respond(arena, request))
    return _answer(arena, middleware(WSGIRequest(arena.arrived(environ_of(request, arena.events)))))


def in_event_loop(arena: Arena, request: Request) -> tuple[int, Headers]:
    async def get_response(request: HttpRequest) -> StreamingHttpResponse:
        return _respond(arena, request)

    async def serve() -> Any:
        middleware: Any = BackJobMiddleware(get_response)
        return await middleware(ASGIRequest(arena.arrived(scope_of(request)), Body(request.body, arena.events)))

    return _answer(arena, asyncio.run(serve()))


class TestMiddlewareSteps(MiddlewareSteps):
    @override
    @pytest.fixture(params=[in_thread, in_event_loop], ids=["sync", "async"])
    def adapter(self, request: pytest.FixtureRequest, arena: Arena, monkeypatch: pytest.MonkeyPatch) -> Adapter:
        monkeypatch.setattr(jobs, "_lazy", LazyEngine(lambda: arena.world.engine))
        adapter: Adapter = request.param
        return adapter
