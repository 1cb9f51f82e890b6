"""An aiohttp application that exports reports in the background. It writes only to the directory DATA."""

import asyncio
import os
import random
import secrets
import tempfile
from pathlib import Path

from aiohttp import web
from backjob_aiohttp import setup

from backjob import BackJob
from backjob.signing import MessageSigner
from backjob.stores.sqlite import SQLiteStore
from backjob.transports.sockets import SocketTransport

DATA = Path(os.environ.get("REPORT_DATA") or tempfile.mkdtemp(prefix="backjob-aiohttp-report"))
SECONDS_A_ROW = float(os.environ.get("REPORT_SECONDS_A_ROW", "0.02"))
HOME = '<!doctype html><title>A report</title><form method="post" action="reports"><button>Export</button></form>'

jobs = BackJob(
    store=SQLiteStore(DATA / "jobs.db"),
    transport=SocketTransport,
    signer=MessageSigner(os.environ.get("BACKJOB_KEY") or secrets.token_urlsafe(48)),
    owner=lambda request: request.http.cookies.get("user"),
)
routes = web.RouteTableDef()


@routes.get("/")
async def home(request: web.Request) -> web.Response:
    """Show a button."""
    return web.Response(text=HOME, content_type="text/html")


@routes.post("/reports")
async def start(request: web.Request) -> web.Response:
    """Start the export and show its progress."""
    job_id = await jobs.astart("/reports/work", {"rows": request.query.get("rows", "500")}, method="POST")
    raise web.HTTPSeeOther(jobs.status_url(job_id, cancel=True))


@routes.post("/reports/work")
@jobs.background_only
async def work(request: web.Request) -> web.StreamResponse:
    """Write the report, slowly. The response becomes the file of the job."""
    fields = {"Content-Type": "text/csv", "Content-Disposition": 'attachment; filename="report.csv"'}
    response = web.StreamResponse(headers=fields)
    await response.prepare(request)
    await response.write(b"order,amount\r\n")
    async for order in jobs.atrack(range(1, int(request.query["rows"]) + 1), "Exporting"):
        await response.write(f"{order},{random.uniform(1, 500):.2f}\r\n".encode())
        await asyncio.sleep(SECONDS_A_ROW)
    return response


async def drain(app: web.Application) -> None:
    """At SIGTERM take no more jobs."""
    jobs.drain_on_signals()


async def close(app: web.Application) -> None:
    """Close the jobs at shutdown."""
    await asyncio.to_thread(jobs.close)


def application() -> web.Application:
    """Return the application."""
    app = web.Application()
    app.add_routes(routes)
    app.on_startup.append(drain)
    app.on_cleanup.append(close)
    setup(app, jobs)
    return app


if __name__ == "__main__":
    web.run_app(application(), host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
