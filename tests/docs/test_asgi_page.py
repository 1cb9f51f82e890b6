"""The applications of docs/asgi.md run on uvicorn, and a client uses them as a browser would."""

from __future__ import annotations

import os
import re
import secrets
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks
from tests.docs.serving import fetch, served, until_ended

pytest.importorskip("uvicorn", reason="the page's server is uvicorn: pip install -e '.[test]'")

# For each application: the code that sets the number of rows, its replacement, and a path that is for jobs only.
ROWS = {
    "app": ('"rows": 50', '"rows": 3', "/export/work?rows=1"),
    "fastapi_app": ("rows=50", "rows=3", "/export/work/1"),
    "quart_app": ("rows=50", "rows=3", "/export/work/1"),
    "litestar_app": ("rows=50", "rows=3", "/export/work/1"),
}


@pytest.mark.parametrize(
    "name", ["app", *[pytest.param(name, marks=pytest.mark.slow) for name in ROWS if name != "app"]]
)
def test_an_application_of_the_page_runs_jobs(name: str, tmp_path: Path) -> None:
    pytest.importorskip(
        "starlette" if name == "app" else name.removesuffix("_app"),
        reason="the page's application needs its framework: pip install -e '.[test]'",
    )
    many, few, for_jobs_only = ROWS[name]
    code = {block.title: block.code for block in blocks(ROOT / "docs" / "asgi.md") if block.title}
    assert many in code[f"{name}.py"]
    for title in (f"{name}.py", "background.py"):
        (tmp_path / title).write_text(code[title].replace(many, few), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BACKJOB_KEY": secrets.token_hex(32)}
    command = [sys.executable, "-m", "uvicorn", f"{name}:app", "--port", "0"]
    with served(command, tmp_path, environment, r"running on http://127\.0\.0\.1:(\d+)") as port:
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
