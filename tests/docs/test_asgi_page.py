"""The applications of docs/asgi.md run on uvicorn, and a client uses them as a browser would."""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backjob import BackJob
from backjob.jobs import engine_of
from backjob.signing import MessageSigner
from backjob.stores import open_store
from backjob.transports.sockets import SocketTransport
from tests.docs.pages import ROOT, blocks
from tests.docs.serving import TIMEOUT, fetch, served, until_ended

pytest.importorskip("uvicorn", reason="the page's server is uvicorn: pip install -e '.[test]'")

# For each application: the code that sets the number of rows, its replacement, and a path that is for jobs only.
ROWS = {
    "app": ('"rows": 50', '"rows": 3', "/export/work?rows=1"),
    "fastapi_app": ("rows=50", "rows=3", "/export/work/1"),
    "quart_app": ("rows=50", "rows=3", "/export/work/1"),
    "litestar_app": ("rows=50", "rows=3", "/export/work/1"),
}


CODE = {block.title: block.code for block in blocks(ROOT / "docs" / "asgi.md") if block.title}


@contextmanager
def running(name: str, directory: Path, many: str = "", few: str = "") -> Iterator[int]:
    """Run an application of the page on uvicorn. Yields its port."""
    for title in (f"{name}.py", "background.py"):
        (directory / title).write_text(CODE[title].replace(many, few) if many else CODE[title], encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BACKJOB_KEY": secrets.token_hex(32)}
    command = [sys.executable, "-m", "uvicorn", f"{name}:app", "--port", "0"]
    with served(command, directory, environment, r"running on http://127\.0\.0\.1:(\d+)") as port:
        yield port


@pytest.mark.parametrize(
    "name", ["app", *[pytest.param(name, marks=pytest.mark.slow) for name in ROWS if name != "app"]]
)
def test_an_application_of_the_page_runs_jobs(name: str, tmp_path: Path) -> None:
    pytest.importorskip(
        "starlette" if name == "app" else name.removesuffix("_app"),
        reason="the page's application needs its framework: pip install -e '.[test]'",
    )
    many, few, for_jobs_only = ROWS[name]
    assert many in CODE[f"{name}.py"]
    with running(name, tmp_path, many, few) as port:
        if name == "app":
            assert 'action="/export"' in fetch(port, "GET", "/").text

        response = fetch(port, "POST", "/export")
        assert response.status == 303
        page = fetch(port, "GET", response.location, {"Accept": "text/html"}).text
        for asset in re.findall(r'(?:src|href)="(/backjob/progress\.[a-z]+)"', page):
            assert fetch(port, "GET", asset).status == 200

        state = until_ended(port, response.location)
        assert (state["status_name"], state["status_text"]) == ("COMPLETED", "Your export is ready")
        reference = response.location.rpartition("/")[2]
        output = fetch(port, "GET", f"/backjob/{reference}/output", {"Accept": "text/plain"}).text
        assert output == "row 0\nrow 1\nrow 2\n"

        assert fetch(port, "GET", for_jobs_only).status == 403


@pytest.mark.slow
def test_status_routes_stand_inside_the_middleware_and_the_session_shows_the_owner(tmp_path: Path) -> None:
    with running("members_app", tmp_path) as port:
        cookies = [fetch(port, "POST", f"/login?user={name}").cookies[0] for name in ("ann", "bob")]
        ann, bob = ({"Cookie": cookie.partition(";")[0]} for cookie in cookies)
        url = f"/backjob/{json.loads(fetch(port, 'POST', '/export', ann).text)}"
        assert fetch(port, "GET", url, bob).status == 404
        assert fetch(port, "GET", url).status == 404
        state = until_ended(port, url, ann)
        assert (state["status_name"], state["owner"]) == ("COMPLETED", "ann")
        assert fetch(port, "GET", f"{url}/output", {**ann, "Accept": "text/plain"}).text == "for ann\n"
        assert fetch(port, "GET", url, {**ann, "Host": "evil.example"}).status == 400
        assert fetch(port, "GET", "/backjob/progress.js", {"Host": "evil.example"}).status == 400
        shared = fetch(port, "GET", url, {**ann, "Origin": "https://shop.example"})
        assert shared.headers["access-control-allow-origin"] == "https://shop.example"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["csrf_app", "litestar_csrf_app"])
def test_csrf_middleware_lets_worker_requests_through_as_documented(tmp_path: Path, name: str) -> None:
    pytest.importorskip("starlette_csrf" if name == "csrf_app" else "litestar")
    with running(name, tmp_path) as port:
        job_id = fetch(port, "GET", "/export").text
        store = open_store(f"sqlite:///{tmp_path}/jobs.db")
        jobs = BackJob(store, SocketTransport("http://127.0.0.1:9"), MessageSigner(secrets.token_hex(32)))
        with jobs:
            engine_of(jobs).show_all()  # the key is another one
            state = jobs.join(job_id, TIMEOUT)
            assert (state.status_text, jobs.output(job_id).text) == ("Your export is ready", "rows: 50\n")
        assert fetch(port, "POST", "/export/work", {"Content-Type": "application/json"}, "{}").status == 403
