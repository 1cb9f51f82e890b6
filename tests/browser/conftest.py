"""A real Chromium, and a site on loopback whose job the test moves on step by step."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, NoReturn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest
from attrs import define, field

from backjob import BackJob
from backjob.signing import MessageSigner
from backjob.stores.sqlite import SQLiteStore
from backjob.transports.sockets import SocketTransport
from backjob.wsgi import BackJobMiddleware
from tests.browser.told import Told

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from playwright.sync_api import Browser, BrowserContext, Page

CHROMIUM = shutil.which("chromium")
# Without these Chromium looks for its maker's servers at every start.
QUIET = ("background-networking", "component-update", "sync", "quic", "gpu")
PATIENCE = 20  # s, for a step of the job
MODULES = Path(__file__).with_name("node_modules")


def _absent(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """No longer than its module: while it lives, Playwright keeps an event loop running in this thread."""
    if CHROMIUM is None:
        _absent("no chromium here; tests/browser/install.sh installs Debian's")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _absent("playwright is not installed: pip install -e '.[test]'")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", *(f"--disable-{what}" for what in QUIET)]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def modules() -> Path:
    """Where npm has put what these tests need."""
    if not (MODULES / ".package-lock.json").exists():
        _absent("axe-core, htmx and TypeScript are not installed; tests/browser/install.sh installs them by npm")
    return MODULES


@define
class Visitor:
    """Opens pages, and collects what their consoles complain of."""

    browser: Browser
    contexts: list[BrowserContext] = field(factory=list)
    complaints: list[str] = field(factory=list)
    expected: str = ""
    """What of that a test wants: a pattern."""

    def page(self, **options: Any) -> Page:
        """An empty page in a context of its own."""
        context = self.browser.new_context(**options)
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: self._hear(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self._hear(str(error)))
        return page

    def _hear(self, text: str) -> None:
        if not (self.expected and re.search(self.expected, text)):
            self.complaints.append(text)


@pytest.fixture
def visitor(browser: Browser) -> Iterator[Visitor]:
    """Whatever a console complains of fails the test, a breach of the policy above all."""
    visitor = Visitor(browser)
    yield visitor
    for context in visitor.contexts:
        context.close()
    assert visitor.complaints == []


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    with Told(tmp_path_factory.mktemp("told")) as told:
        yield told


class _Threaded(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's
        """Nothing is printed when all is well."""


class Site:
    """A page with the progress element, and an action that does what it is told: ``(method, arguments)`` at a time."""

    def __init__(self, folder: Path) -> None:
        self.jobs = BackJob(SQLiteStore(folder / "jobs.db"), SocketTransport, MessageSigner(secrets.token_urlsafe(32)))
        self.steps: SimpleQueue[tuple[str, tuple[object, ...]]] = SimpleQueue()
        self.server = make_server(
            "127.0.0.1", 0, BackJobMiddleware(self._app, self.jobs), server_class=_Threaded, handler_class=_Silent
        )
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.steps.put(("finish", ()))
        self.server.shutdown()
        self.server.server_close()
        self.jobs.close()

    def do(self, method: str, *arguments: object) -> None:
        self.steps.put((method, arguments))

    def _app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/work":
            return self._work(start_response)
        if path != "/":
            start_response("404 Not Found", [("Content-Length", "0")])
            return [b""]
        source = self.jobs.status_url(self.jobs.start("/work", as_current_user=False), cancel=True)
        start_response(
            "200 OK",
            [("Content-Type", "text/html"), ("Content-Security-Policy", "default-src 'self'; img-src data:")],
        )
        return [
            b"<!doctype html><title>site</title><link rel='icon' href='data:,'>"
            b"<script type='module' src='/backjob/progress.js'></script>"
            b"<link rel='stylesheet' href='/backjob/progress.css'>"
            b"<backjob-progress output cancel src='" + source.encode() + b"'></backjob-progress>"
        ]

    def _work(self, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "0")])
        while True:
            method, arguments = self.steps.get(timeout=PATIENCE)
            getattr(self.jobs, method)(*arguments)
            if method == "finish":
                return [b""]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


@pytest.fixture
def page(site: Site, visitor: Visitor) -> Page:
    """An empty page, closed before the site is."""
    return visitor.page()
