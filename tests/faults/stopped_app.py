"""A site with a job in slices and a plain one, for WSGI and ASGI servers that are told to stop.

``/start/sliced`` and ``/start/plain`` start a job of ``ITEMS`` items, or half as many, with the options in ``START_OPTIONS`` (JSON). Each
finished item is a line of the file ``DONE``: ``<action> <item> <process>``. ``DRAIN=import`` has the process drain on
signals from the import of this module on; an ASGI server does so from its startup on.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from backjob import asgi as backjob_asgi
from backjob import wsgi as backjob_wsgi
from tests.lines import append_line
from tests.scenarios.apps.plain import make_jobs
from tests.scenarios.apps.scopes import Receive, Scope, Send

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["app", "asgi_app", "jobs"]

ITEMS: Final = int(os.environ["ITEMS"])
_SECONDS_EACH: Final = 0.05
_DONE: Final = Path(os.environ["DONE"])
_OPTIONS: Final = json.loads(os.environ.get("START_OPTIONS", "{}"))

jobs: Final = make_jobs()
if os.environ.get("DRAIN") == "import":
    jobs.drain_on_signals()


def record(action: str, item: int) -> None:
    """Note that an action is done with an item."""
    append_line(_DONE, action, item, os.getpid())


def items(action: str) -> range:
    """What an action works on."""
    return range(ITEMS if action == "sliced" else ITEMS // 2)


def respond(path: str) -> str:
    """The response's text."""
    _, page, *rest = path.split("/")
    if page == "start":
        return jobs.start(f"/{rest[0]}", as_current_user=False, **_OPTIONS)
    if page in ("sliced", "plain"):
        for item in jobs.track(items(page), resume=page == "sliced"):
            time.sleep(_SECONDS_EACH)
            record(page, item)
    return "ok"


async def respond_async(path: str) -> str:
    """The same in the event loop."""
    page = path.strip("/")
    if page not in ("sliced", "plain"):
        return await asyncio.to_thread(respond, path)
    async for item in jobs.atrack(items(page), resume=page == "sliced"):
        await asyncio.sleep(_SECONDS_EACH)
        record(page, item)
    return "ok"


def site(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    text = respond(environ["PATH_INFO"]).encode()
    start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", str(len(text)))])
    return [text]


async def asgi_site(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            jobs.drain_on_signals()
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    text = (await respond_async(scope["path"])).encode()
    headers = [(b"content-type", b"text/html"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


app: WSGIApplication = backjob_wsgi.BackJobMiddleware(site, jobs)
asgi_app = backjob_asgi.BackJobMiddleware(asgi_site, jobs)
