"""The same application for ASGI, with Starlette: one job in slices and one plain job."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route

from backjob import BackJob
from backjob.asgi import BackJobMiddleware, StatusApp
from backjob.signing import MessageSigner
from backjob.stores import open_store
from backjob.transports.sockets import SocketTransport

jobs = BackJob(
    store=open_store(os.environ["BACKJOB_STORE"]),
    transport=SocketTransport,
    signer=MessageSigner(os.environ["BACKJOB_KEY"]),
)


async def home(request: Request) -> HTMLResponse:
    return HTMLResponse(
        '<form method="post" action="/import?rows=1000"><button>Import</button></form>'
        '<form method="post" action="/report?seconds=20"><button>Report</button></form>'
    )


async def start_import(request: Request) -> JSONResponse:
    job_id = await jobs.astart("/import/work", request.query_params, as_current_user=False, retries=3, queue="imports")
    return JSONResponse({"url": jobs.status_url(job_id)}, 202)


@jobs.background_only
async def import_work(request: Request) -> PlainTextResponse:
    async for row in jobs.atrack(range(int(request.query_params["rows"])), "Importing", resume="each"):
        await asyncio.sleep(0.05)  # stands for your work
        print("row", row)
    return PlainTextResponse(jobs.finish("All rows are imported"))


async def start_report(request: Request) -> JSONResponse:
    job_id = await jobs.astart("/report/work", request.query_params, as_current_user=False)
    return JSONResponse({"url": jobs.status_url(job_id)}, 202)


@jobs.background_only
async def report_work(request: Request) -> PlainTextResponse:
    for _ in jobs.track(range(10), "Reporting"):
        await asyncio.sleep(float(request.query_params["seconds"]) / 10)
    return PlainTextResponse(jobs.finish("The report is ready"))


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    if threading.current_thread() is threading.main_thread():  # which a test client's is not
        jobs.drain_on_signals()  # after uvicorn has set its own signal handlers
    yield


app = Starlette(
    routes=[
        Route("/", home),
        Route("/import", start_import, methods=["POST"]),
        Route("/import/work", import_work),
        Route("/report", start_report, methods=["POST"]),
        Route("/report/work", report_work),
        Mount(jobs.status_prefix, StatusApp(jobs)),
    ],
    lifespan=lifespan,
)
app.add_middleware(BackJobMiddleware, jobs=jobs, status=False)
