"""A site whose workers are killed. It records each run of its action in a file, for WSGI and ASGI servers.

``/start?count=600`` starts that many jobs, with the options in ``START_OPTIONS`` (JSON). Their action records when a run
begins and ends, as lines of the file ``RUNS``: ``begin <job> <run> <process>``.
"""

from __future__ import annotations

import asyncio
import json
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
_options: Final = json.loads(os.environ.get("START_OPTIONS", "{}"))
_seconds: Final = float(os.environ.get("SECONDS_EACH", "0.02"))


def record(word: str) -> None:
    """Append a line in one write, which the file system makes atomic."""
    running = current.get()
    assert running is not None
    line = f"{word} {running.job.id} {running.job.run} {os.getpid()}\n"
    descriptor = os.open(_runs, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def respond(path: str, query: str) -> str:
    """The response's text; the action is ``/work``."""
    if path == "/work":
        record("begin")
        time.sleep(_seconds)
        record("end")
    elif path == "/start":
        count = int(parse_qs(query)["count"][0])
        for number in range(count):
            jobs.start("/work", {"n": number}, as_current_user=False, **_options)
    return "ok"


def site(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    text = respond(environ["PATH_INFO"], environ.get("QUERY_STRING", "")).encode()
    start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", str(len(text)))])
    return [text]


async def asgi_site(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    text = (await asyncio.to_thread(respond, scope["path"], scope["query_string"].decode())).encode()
    headers = [(b"content-type", b"text/html"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


app: WSGIApplication = backjob_wsgi.BackJobMiddleware(site, jobs)
asgi_app = backjob_asgi.BackJobMiddleware(asgi_site, jobs)
