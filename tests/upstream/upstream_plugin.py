"""Puts backjob's middleware around every application that a framework's tests call, and writes their results to a file.

It is a plugin of pytest, and Django's settings use it. It imports nothing of `tests`: a suite may have a package of that name.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

__all__ = ["KEY", "insert", "write"]

KEY: Final = "the upstream tests' own secret, 7c1e5b90d2f84a36"

_inserted = 0
_outcomes: Final[dict[str, str]] = {}


def insert() -> None:
    """Insert the middleware if this is the run with it."""
    framework = os.environ["UPSTREAM_FRAMEWORK"]
    if framework:
        {"flask": _into_flask, "starlette": _into_starlette, "django": _into_django}[framework]()


def write(outcomes: Mapping[str, str]) -> None:
    """Write the outcome of each test, and around how many applications the middleware was put."""
    text = json.dumps({"inserted": _inserted, "outcomes": outcomes})
    Path(os.environ["UPSTREAM_RESULTS"]).write_text(text, encoding="utf-8")


# --- hooks of pytest ------------------------------------------------------------------------------------------------


def pytest_configure() -> None:
    insert()


def pytest_collectreport(report: Any) -> None:
    if report.failed:
        _outcomes[report.nodeid] = "not collected"


def pytest_runtest_logreport(report: Any) -> None:
    if report.failed and report.when != "call":
        _outcomes[report.nodeid] = "error"
    elif report.when == "call" or report.skipped:
        expected = hasattr(report, "wasxfail")
        _outcomes[report.nodeid] = ("xfailed" if report.skipped else "xpassed") if expected else report.outcome


def pytest_sessionfinish() -> None:
    write(_outcomes)


# --- the frameworks -------------------------------------------------------------------------------------------------


def _into_flask() -> None:
    from flask import Flask

    from backjob.wsgi import BackJobMiddleware

    original, jobs = Flask.wsgi_app, WeakKeyDictionary[Flask, Any]()

    @functools.wraps(original)
    def wsgi_app(app: Flask, environ: Any, start_response: Any) -> Any:
        # An instance's attribute would be a cycle, and a test counts the references to an application.
        if app not in jobs:
            jobs[app] = _jobs()
        return BackJobMiddleware(functools.partial(original, app), jobs[app])(environ, start_response)

    setattr(Flask, "wsgi_app", wsgi_app)  # noqa: B010 - type checkers refuse the assignment


def _into_starlette() -> None:
    from starlette import testclient

    from backjob.asgi import BackJobMiddleware

    original = testclient.TestClient.__init__

    @functools.wraps(original)
    def init(self: Any, app: Any, *args: Any, **kwargs: Any) -> None:
        inner = app if testclient._is_asgi3(app) else testclient._WrapASGI2(app)
        original(self, BackJobMiddleware(inner, _jobs()), *args, **kwargs)

    setattr(testclient.TestClient, "__init__", init)  # noqa: B010 - as above


def _into_django() -> None:
    from django.conf import settings
    from django.core.handlers.base import BaseHandler

    original = BaseHandler.load_middleware

    @functools.wraps(original)
    def load_middleware(self: Any, *args: Any, **kwargs: Any) -> None:
        global _inserted  # noqa: PLW0603 - one counter for the process
        before = settings.MIDDLEWARE
        settings.MIDDLEWARE = ["backjob.django.middleware.BackJobMiddleware", *before]
        try:
            original(self, *args, **kwargs)
            _inserted += 1
        finally:
            settings.MIDDLEWARE = before

    setattr(BaseHandler, "load_middleware", load_middleware)  # noqa: B010 - as above


def _jobs() -> Any:
    global _inserted  # noqa: PLW0603 - as above
    _inserted += 1
    from backjob import BackJob
    from backjob.signing import MessageSigner
    from backjob.stores.memory import MemoryStore
    from backjob.transports.sockets import SocketTransport

    return BackJob(MemoryStore(), SocketTransport, MessageSigner(KEY))
