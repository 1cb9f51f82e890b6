"""The front end of docs/single-page.md, at another origin than its API: bearer tokens, links, events, the element."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.docs.pages import ROOT, blocks
from tests.docs.serving import fetch, served, until_ended

if TYPE_CHECKING:
    from tests.browser.conftest import Visitor

pytestmark = pytest.mark.slow
pytest.importorskip("fastapi", reason="the page's API needs FastAPI: pip install -e '.[test]'")

PAGE: Final = ROOT / "docs" / "single-page.md"
ANN: Final = {"Authorization": "Bearer token of ann", "Accept": "application/json"}
BOB: Final = {"Authorization": "Bearer token of bob", "Accept": "application/json"}


def scripts() -> list[str]:
    return [block.code for block in blocks(PAGE) if block.language == "js"]


@contextmanager
def front_end(body: list[str]) -> Iterator[str]:
    """A server of another origin that sends this HTML. Yields its origin."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write("".join(body).encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def api(directory: Path, origin: str) -> Iterator[int]:
    """The page's API, which trusts this origin. Yields its port."""
    [code] = [block.code for block in blocks(PAGE) if block.title == "api.py"]
    (directory / "api.py").write_text(code, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BACKJOB_")}
    environment |= {"PYTHONPATH": str(ROOT), "FRONT_END": origin}
    command = [sys.executable, "-m", "uvicorn", "api:app", "--port", "0"]
    with served(command, directory, environment, r"running on http://127\.0\.0\.1:(\d+)") as port:
        yield port


@pytest.mark.any_browser
def test_a_page_of_another_origin_follows_and_cancels_a_job_with_a_bearer_token(
    tmp_path: Path, visitor: Visitor
) -> None:
    visitor.expected = (
        "CORS request did not succeed|ERR_CONNECTION_RESET"  # of a poll that the end of the page interrupts
    )
    calls, events, actions, _with_cookies = scripts()
    body: list[str] = []
    with front_end(body) as origin, api(tmp_path, origin) as port:
        address = f"http://127.0.0.1:{port}"
        setup = calls.replace("https://api.example", address)
        assert setup != calls
        body.append(
            f"""<!doctype html><title>App</title><link rel="icon" href="data:,">
            <script type="module" src="{address}/backjob/progress.js"></script>
            <link rel="stylesheet" href="{address}/backjob/progress.css"><div id="app"></div>
            <script type="module">
            const token = "token of ann", states = [], texts = [];
            const show = (state) => {{ states.push(state.status_name); window.last = state.status_name; }};
            const append = (text) => texts.push(text);
            {setup}
            {events}
            const bar = document.createElement("backjob-progress");
            bar.setAttribute("src", links.self);
            bar.setAttribute("output", "");
            document.getElementById("app").append(bar);
            window.texts = texts;
            window.job = id;
            </script>"""
        )
        page = visitor.open(origin)
        page.wait_for_function("window.last === 'COMPLETED'", timeout=30_000)
        assert page.evaluate("texts.join('')") == "".join(f"row {row}\n" for row in range(50))
        page.locator("backjob-progress[data-status='completed']").wait_for()
        job_id = page.evaluate("job")
        assert until_ended(port, f"/backjob/{job_id}", ANN)["owner"] == "ann"
        assert fetch(port, "GET", f"/backjob/{job_id}", BOB).status == 404

        cancel = re.sub(r"location\.assign.*", "", actions)
        body[0] = body[0].replace("window.job = id;", f"{cancel} window.job = id;")
        page = visitor.open(origin)
        page.wait_for_function("window.last === 'CANCELLED'", timeout=30_000)
        page.locator("backjob-progress[data-status='cancelled']").wait_for()  # it polls until then


def test_only_the_trusted_origin_may_read_and_a_bearer_token_without_a_cookie_proves_intent(tmp_path: Path) -> None:
    with api(tmp_path, "https://app.example") as port:
        job = fetch(port, "POST", "/exports?rows=5000", ANN)
        [job_id] = re.findall(r'"id": ?"([^"]+)"', job.text)
        trusted = fetch(port, "GET", f"/backjob/{job_id}", {**ANN, "Origin": "https://app.example"})
        assert trusted.headers["Access-Control-Allow-Origin"] == "https://app.example"
        strange = fetch(port, "GET", f"/backjob/{job_id}", {**ANN, "Origin": "https://evil.example"})
        assert strange.headers["Access-Control-Allow-Origin"] is None
        with_cookie = {**ANN, "Cookie": "session=1", "Origin": "https://evil.example"}
        assert fetch(port, "POST", f"/backjob/{job_id}/cancel", with_cookie).status == 403
        assert fetch(port, "POST", f"/backjob/{job_id}/cancel", BOB).status == 404
        assert fetch(port, "POST", f"/backjob/{job_id}/cancel", ANN).status == 200
        assert fetch(port, "POST", "/exports").status == 401
