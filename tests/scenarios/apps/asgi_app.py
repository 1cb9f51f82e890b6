"""The scenario site as a plain ASGI application, at the root and mounted; actions run in threads."""

from __future__ import annotations

import asyncio

from backjob.asgi import BackJobMiddleware
from tests.scenarios.apps.plain import make_jobs
from tests.scenarios.apps.scopes import Receive, Scope, Send, mounted, prefixed, visit_of
from tests.scenarios.site import answer

__all__ = ["app", "behind_proxy", "jobs"]

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
    chunks = iter(reply.body)
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        await send({"type": "http.response.body", "body": chunk.encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


bare = BackJobMiddleware(site, jobs)
app = mounted(bare)
behind_proxy = prefixed(bare)
