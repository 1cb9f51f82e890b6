"""Real browsers, and a site on loopback with a job that the test controls step by step."""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
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
from tests.browser.browsers import INSTALLED, Browsers
from tests.browser.scripted import ScriptedSite

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from playwright.sync_api import Browser, BrowserContext, Page

STEP_TIMEOUT = 20  # s
_HERE = Path(__file__).parent
_OPEN = pytest.StashKey[list[Browsers]]()
MODULES = _HERE / "node_modules"
BROWSERS = ("chromium", pytest.param("firefox", marks=pytest.mark.slow))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests that do not depend on the browser in one browser; nightly runs have them in all."""
    for item in items:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if params.get("browsers") == "firefox" and item.get_closest_marker("any_browser") is not None:
            item.add_marker(pytest.mark.nightly)


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Close the browsers before a test of another directory: Playwright runs an event loop in this thread until then."""
    if nextitem is None or not nextitem.path.is_relative_to(_HERE):
        for browsers in item.config.stash.get(_OPEN, ()):
            browsers.close()


@pytest.fixture(scope="session", params=BROWSERS)
def browsers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browsers]:
    """One browser for all tests of this directory. Each test has contexts of its own in it."""
    if request.param not in INSTALLED:
        _missing(f"{request.param} is not installed; run tests/browser/install.sh")
    if find_spec("playwright") is None:
        _missing("playwright is not installed: pip install -e '.[test]'")
    browsers = Browsers(request.param, tmp_path_factory.mktemp("browser"))
    request.config.stash.setdefault(_OPEN, []).append(browsers)
    yield browsers
    browsers.close()


@pytest.fixture
def browser(browsers: Browsers) -> Browser:
    """The browser with its usual preferences."""
    return browsers.browser()


@pytest.fixture(scope="session")
def modules() -> Path:
    """The folder of the npm packages that these tests use."""
    if not (MODULES / ".package-lock.json").exists():
        _missing("axe-core, htmx and TypeScript are not installed; run tests/browser/install.sh")
    return MODULES


@define
class Visitor:
    """Opens pages, and collects the errors in their consoles."""

    browsers: Browsers
    contexts: list[BrowserContext] = field(factory=list)
    console_errors: list[str] = field(factory=list)
    expected: str = ""
    """A pattern for errors that the test expects."""

    @property
    def is_firefox(self) -> bool:
        return self.browsers.name == "firefox"

    def needs_chromium(self, reason: str) -> None:
        """Skip this test in other browsers."""
        if self.browsers.name != "chromium":
            pytest.skip(reason)

    def page(self, **options: Any) -> Page:
        """An empty page in a new context, with these options of Playwright's ``new_context()``."""
        context = self.browsers.context(**options)
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: self._collect(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self._collect(str(error)))
        return page

    def open(self, url: str, **options: Any) -> Page:
        """A page at this URL, in a new context."""
        page = self.page(**options)
        page.goto(url)
        return page

    def _collect(self, text: str) -> None:
        if not (self.expected and re.search(self.expected, text)):
            self.console_errors.append(text)


@pytest.fixture
def visitor(browsers: Browsers) -> Iterator[Visitor]:
    """A `Visitor`. Unexpected console errors fail the test, among them violations of the Content-Security-Policy."""
    visitor = Visitor(browsers)
    yield visitor
    for context in visitor.contexts:
        context.close()
    browsers.close_unused()
    assert visitor.console_errors == []


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedSite]:
    with ScriptedSite(tmp_path_factory.mktemp("scripted")) as site:
        yield site


class _Threaded(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's
        """Log nothing."""


class Site:
    """A page with the progress element, and an action that calls the methods of its `BackJob` that `do` passes to it."""

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
            method, arguments = self.steps.get(timeout=STEP_TIMEOUT)
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
    """An empty page that closes before the site."""
    return visitor.page()
