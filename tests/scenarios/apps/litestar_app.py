"""The scenario site as a Litestar application: with the middleware around it (``app``) or in its list (``listed``)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, TypeAlias

from litestar import Litestar, Request, Response, get, route
from litestar.enums import MediaType
from litestar.exceptions import HTTPException
from litestar.middleware import DefineMiddleware
from litestar.params import RawBody
from litestar.response import Stream
from litestar.types import Scope

from backjob.asgi import BackJobMiddleware
from tests.scenarios.apps.plain import make_jobs
from tests.scenarios.apps.scopes import mounted, visit_of
from tests.scenarios.coroutines import answer_async
from tests.scenarios.site import answer

__all__ = ["app", "bare", "jobs", "listed"]

Seen: TypeAlias = Request[Any, Any, Any]

jobs = make_jobs()


@get("/coroutine/{action:str}", name="coroutine")
async def coroutine(request: Seen) -> Response[Any]:
    """The coroutine actions."""
    reply = await answer_async(jobs, visit_of(request.scope, b""))
    if isinstance(reply.body, str):
        return Response(reply.body, media_type=MediaType.TEXT)
    return Stream(reply.body, media_type=MediaType.TEXT)


@get("/by-url")
async def by_url(request: Seen) -> dict[str, str]:
    """Start the coroutine "report" by its URL."""
    return {"id": await jobs.astart(request.url_for("coroutine", action="report"))}


@route("/{path:path}", http_method=["GET", "POST", "PUT", "DELETE"], sync_to_thread=True)
def site(request: Seen, body: RawBody) -> Response[Any]:
    """Every page of the site."""
    reply = answer(jobs, visit_of(request.scope, body))
    if not isinstance(reply.body, str):
        return Stream(_chunks(reply.body), headers=dict(reply.headers), media_type=reply.content_type)
    content = None if reply.status == 204 else reply.body
    return Response(content, status_code=reply.status, headers=dict(reply.headers), media_type=reply.content_type)


async def _chunks(body: Iterable[str]) -> AsyncIterator[str]:
    """The chunks as an async generator: in a plain one, Litestar takes a ValueError for the end."""
    chunks = iter(body)
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk


def _note(error: Exception, _scope: Scope) -> None:
    if not isinstance(error, HTTPException):
        jobs.note_error(error)


def _application(*middleware: DefineMiddleware, is_debugged: bool = False) -> Litestar:
    return Litestar(
        [by_url, coroutine, site],
        middleware=middleware,
        after_exception=[_note],
        openapi_config=None,
        debug=is_debugged,
    )


bare = BackJobMiddleware(_application(), jobs)
app = mounted(bare)
listed = mounted(_application(DefineMiddleware(BackJobMiddleware, jobs=jobs), is_debugged=True))
