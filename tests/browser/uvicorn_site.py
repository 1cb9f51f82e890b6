"""A FastAPI application on uvicorn whose page shows the jobs in its query: ``uvicorn_site.py PORT``.

The store is ``jobs.db`` in the working directory, and the signing key is in the environment, so the test can open the
same store and write the states that the browser shows.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from html import escape

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse

from backjob import BackJob
from backjob.asgi import BackJobMiddleware
from backjob.signing import MessageSigner
from backjob.stores.sqlite import SQLiteStore
from backjob.transports.sockets import SocketTransport

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'"
TRUSTED = "; require-trusted-types-for 'script'; trusted-types 'none'"

port = int(sys.argv[1])
jobs = BackJob(
    SQLiteStore("jobs.db"), SocketTransport(f"http://127.0.0.1:{port}"), MessageSigner(os.environ["SITE_KEY"])
)
app = FastAPI()


@app.get("/")
def page(request: Request, lang: str = "en", theme: str = "") -> HTMLResponse:
    """A page with an element for each ``job``, a status URL. Other parameters become attributes of all elements."""
    attributes = "".join(
        f' {name}="{escape(value)}"'
        for name, value in request.query_params.items()
        if name not in ("job", "lang", "theme", "wrapped")
    )
    elements = "".join(
        f'<backjob-progress src="{escape(source)}"{attributes}></backjob-progress>'
        for source in request.query_params.getlist("job")
    )
    if "wrapped" in request.query_params:
        elements = f'<div class="outer"><div class="inner">{elements}</div></div>'
    markup = (
        f'<!doctype html><html lang="{escape(lang)}"><head><meta charset="utf-8"><title>Reports</title>'
        '<link rel="icon" href="data:,"><link rel="stylesheet" href="/backjob/progress.css">'
        '<script src="/backjob/progress.js" defer></script></head>'
        f'<body class="{escape(theme)}"><main><h1>Reports</h1>{elements}</main></body></html>'
    )
    return HTMLResponse(markup, headers={"Content-Security-Policy": POLICY + TRUSTED})


@app.get("/embedded/{job_id}")
def embedded(job_id: str) -> HTMLResponse:
    """A page with the element as the server renders it."""
    markup = f"<!doctype html><title>Reports</title><link rel='icon' href='data:,'><main>{jobs.element(job_id)}</main>"
    return HTMLResponse(markup, headers={"Content-Security-Policy": POLICY})


@app.get("/favicon.ico")
def icon() -> Response:
    """The icon that a browser requests with a result that is not a page."""
    return Response(status_code=204)


@app.get("/silent")
def silent(first: str = "") -> StreamingResponse:
    """A stream that stays open without further events, as if a proxy buffered it."""

    async def body() -> AsyncIterator[str]:
        yield first
        await asyncio.Event().wait()

    return StreamingResponse(body(), media_type="text/event-stream")


@app.get("/start")
async def start() -> PlainTextResponse:
    """Start a job of this site; returns its status URL."""
    return PlainTextResponse(jobs.status_url(await jobs.astart("/work", as_current_user=False), cancel=True))


@app.get("/work")
async def work() -> str:
    """The action, like the one in the docs."""
    async for row in jobs.atrack(range(1, 41), "Exporting"):
        if row % 10 == 0:
            jobs.echo(f"{row} rows written\n")
    return await jobs.afinish("40 rows exported", result={"href": "/export.csv"})


@app.get("/export.csv")
def export() -> PlainTextResponse:
    """The job's result."""
    return PlainTextResponse("row\n")


app.add_middleware(BackJobMiddleware, jobs=jobs)

if __name__ == "__main__":
    # Without a Date header the element takes its time from the jobs, and so from the test's clock.
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, date_header=False)
