"""A FastAPI application that exports reports in the background. It writes only to the directory DATA."""

import asyncio
import csv
import os
import random
import secrets
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from fastapi.routing import APIRouter

from backjob import BackJob, JobNotFound, Status
from backjob.asgi import BackJobMiddleware, StatusApp
from backjob.signing import MessageSigner
from backjob.stores.sqlite import SQLiteStore
from backjob.transports.sockets import SocketTransport

DATA = Path(os.environ.get("REPORT_DATA") or Path(tempfile.gettempdir()) / "backjob-fastapi-report")
DATA.mkdir(parents=True, exist_ok=True)
SECONDS_A_ROW = float(os.environ.get("REPORT_SECONDS_A_ROW", "0.02"))

HOME = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>A report</title>
<link rel="icon" href="data:,">
<h1>A report</h1>
<form method="post" action="reports?rows=500"><button>Export</button></form>
</html>
"""


def the_jobs(request: Request) -> BackJob:
    """The application's jobs."""
    return request.app.state.jobs


Jobs = Annotated[BackJob, Depends(the_jobs)]


def background_only(jobs: Jobs) -> None:
    """Refuse ordinary requests."""
    if not jobs.is_background:
        raise HTTPException(403)


router = APIRouter()


@router.get("/")
async def home() -> HTMLResponse:
    """Show a button."""
    return HTMLResponse(HOME)


@router.post("/reports")
async def start(request: Request, jobs: Jobs, rows: int = 500) -> RedirectResponse:
    """Start the export and show its progress."""
    job_id = await jobs.astart(request.url_for("work", rows=rows))
    return RedirectResponse(jobs.status_url(job_id, cancel=True), status_code=303)


@router.get("/reports/work/{rows}", dependencies=[Depends(background_only)], include_in_schema=False)
def work(request: Request, jobs: Jobs, rows: int) -> str:
    """Write the report, slowly. FastAPI runs a plain function in a thread."""
    file = DATA / f"{jobs.job_id}.csv"
    unfinished = file.with_suffix(".part")
    try:
        with unfinished.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.writer(opened)
            writer.writerow(["order", "amount"])
            for order in jobs.track(range(1, rows + 1), "Exporting"):
                writer.writerow([order, f"{random.uniform(1, 500):.2f}"])
                time.sleep(SECONDS_A_ROW)
        unfinished.rename(file)
    finally:
        unfinished.unlink(missing_ok=True)  # it still exists if the job was cancelled
    return jobs.finish("Your report is ready", result={"href": request.url_for("download", job_id=file.stem).path})


@router.get("/reports/{job_id}")
async def download(jobs: Jobs, job_id: str) -> FileResponse:
    """Send a complete report. Its id is as secret as a password: only the visitor knows it."""
    try:
        state = await jobs.astatus(job_id)
    except JobNotFound:
        raise HTTPException(404) from None
    if state.status is not Status.COMPLETED:
        raise HTTPException(404)
    return FileResponse(DATA / f"{job_id}.csv", filename="report.csv")


@asynccontextmanager
async def lifespan(app: FastAPI):
    """Close the jobs at shutdown."""
    yield
    await asyncio.to_thread(app.state.jobs.close)


app = FastAPI(lifespan=lifespan)
app.include_router(router)
app.state.jobs = BackJob(
    store=SQLiteStore(DATA / "jobs.db"),
    transport=SocketTransport,
    signer=MessageSigner(os.environ.get("BACKJOB_KEY") or secrets.token_urlsafe(48)),
)
app.add_middleware(BackJobMiddleware, jobs=app.state.jobs, status=False)
app.mount(app.state.jobs.status_prefix, StatusApp(app.state.jobs))
