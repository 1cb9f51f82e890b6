"""The scenario site as an aiohttp application, with the adapter that docs/own-adapter.md shows."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable
from importlib import import_module

from aiohttp import web

from tests.docs.pages import ROOT
from tests.scenarios.apps.config import MOUNT
from tests.scenarios.apps.plain import make_jobs
from tests.scenarios.coroutines import answer_async
from tests.scenarios.site import Visit, answer

__all__ = ["app", "jobs"]

sys.path.insert(0, str(ROOT / "docs" / "examples" / "aiohttp_report"))

jobs = make_jobs()


async def site(request: web.Request) -> web.StreamResponse:
    """Every page of the site; actions run in threads."""
    reply = await asyncio.to_thread(answer, jobs, _visit(request, await request.read()))
    headers = {"Content-Type": reply.content_type, **reply.headers}
    if isinstance(reply.body, str):
        return web.Response(status=reply.status, headers=headers, body=reply.body.encode())
    return await _streamed(request, _chunks(reply.body), headers)


async def coroutine(request: web.Request) -> web.StreamResponse:
    """The actions that are coroutines."""
    reply = await answer_async(jobs, _visit(request, b""))
    if isinstance(reply.body, str):
        return web.Response(text=reply.body)
    return await _streamed(request, reply.body, {"Content-Type": "text/plain"})


async def _chunks(chunks: Iterable[str]) -> AsyncIterator[str]:
    left = iter(chunks)
    while (chunk := await asyncio.to_thread(next, left, None)) is not None:
        yield chunk


async def _streamed(request: web.Request, chunks: AsyncIterator[str], headers: dict[str, str]) -> web.StreamResponse:
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    async for chunk in chunks:
        await response.write(chunk.encode())
    return response


def _visit(request: web.Request, body: bytes) -> Visit:
    path = request.path.removeprefix(MOUNT)
    return Visit(
        method=request.method,
        path=path,
        query=request.raw_path.partition("?")[2],
        raw=request.raw_path,
        mount=request.path.removesuffix(path),
        headers={name.decode("latin-1").lower(): value.decode("latin-1") for name, value in request.raw_headers},
        body=body,
        address=request.remote or "",
        scheme=request.scheme,
        host=request.host,
        parameters=dict(request.query),
    )


app = web.Application()
app.router.add_route("*", "/coroutine/{name}", coroutine)
import_module("backjob_aiohttp").setup(app, jobs)
app.router.add_route("*", "/{path:.*}", site)
