"""A site whose action sleeps, for tests of how many jobs run at once. For WSGI and ASGI servers.

``/start?count=700&s=0.1&queue=exports`` starts that many jobs at once. ``/work`` appends a line to the file ``RUNS`` when
it begins and when it ends: ``begin <job> <queue> <process> <seconds>``, on the monotonic clock, which all processes share.
``/bare?s=0.1`` sleeps without a job.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from backjob import asgi as backjob_asgi
from backjob import wsgi as backjob_wsgi
from backjob.worker.running import current
from tests.scenarios.apps.plain import make_jobs
from tests.scenarios.apps.scopes import Receive, Scope, Send

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["app", "asgi_app", "jobs"]


jobs: Final = make_jobs()
_runs: Final = Path(os.environ["RUNS"])


def record(word: str) -> None:
    """Append a line in one write, which the file system makes atomic."""
    running = current.get()
    assert running is not None
    line = f"{word} {running.job.id} {running.job.queue} {os.getpid()} {time.monotonic():.4f}\n"
    descriptor = os.open(_runs, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def respond(path: str, query: dict[str, str]) -> str:
    """The response's text."""
    if path == "/work":
        record("begin")
        time.sleep(float(query["s"]))
        record("end")
    elif path == "/bare":
        time.sleep(float(query["s"]))
    elif path == "/start":
        options = {"queue": query["queue"]} if "queue" in query else {}
        for number in range(int(query["count"])):
            jobs.start("/work", {"n": number, "s": query["s"]}, as_current_user=False, merge="never", **options)
    return "ok"


def _parsed(query: str) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(query).items()}


def site(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    text = respond(environ["PATH_INFO"], _parsed(environ.get("QUERY_STRING", ""))).encode()
    start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", str(len(text)))])
    return [text]


async def asgi_site(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    text = (await asyncio.to_thread(respond, scope["path"], _parsed(scope["query_string"].decode()))).encode()
    headers = [(b"content-type", b"text/html"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


app: WSGIApplication = backjob_wsgi.BackJobMiddleware(site, jobs)
asgi_app = backjob_asgi.BackJobMiddleware(asgi_site, jobs)
