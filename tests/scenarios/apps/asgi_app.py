"""The scenario site as a plain ASGI application, at the root and mounted too; actions run in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import parse_qs

from backjob.asgi import BackJobMiddleware
from tests.scenarios.apps.config import MOUNT
from tests.scenarios.apps.plain import make_jobs
from tests.scenarios.site import Visit, answer

__all__ = ["app", "jobs"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

jobs = make_jobs()


async def site(scope: Scope, receive: Receive, send: Send) -> None:
    """Every page of the site."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    reply = await asyncio.to_thread(answer, jobs, visit_of(scope, body))
    headers = [(b"content-type", reply.content_type.encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in reply.headers.items()]
    if isinstance(reply.body, str):
        text = reply.body.encode()
        headers.append((b"content-length", str(len(text)).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": text})
        return
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    pieces = iter(reply.body)
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        await send({"type": "http.response.body", "body": piece.encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def visit_of(scope: Scope, body: bytes) -> Visit:
    """A request as the site sees it."""
    path, root = scope["path"], scope.get("root_path", "")
    query = scope["query_string"].decode("latin-1")
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    raw = scope.get("raw_path")
    return Visit(
        method=scope["method"],
        path=path.removeprefix(root) if root else path,
        query=query,
        raw=None if raw is None else raw.decode("latin-1") + (f"?{query}" if query else ""),
        mount=root,
        headers=headers,
        body=body,
        address=scope["client"][0] if scope.get("client") else "",
        scheme=scope["scheme"],
        host=headers.get("host", ""),
        parameters={name: values[-1] for name, values in parse_qs(query).items()},
    )


_inner = BackJobMiddleware(site, jobs)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The application at the root and, as the root path says, under `MOUNT` as well."""
    if scope["type"] == "http" and scope["path"].startswith(MOUNT + "/"):
        scope = {**scope, "root_path": scope.get("root_path", "") + MOUNT}
    await _inner(scope, receive, send)
