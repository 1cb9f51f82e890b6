"""The tests' Django project on a real server with its own database, and browsers that keep cookies."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import field, frozen
from django.db import connections

from tests.scenarios.client import WAIT, Client, Page
from tests.scenarios.servers import KINDS, Server, running

__all__ = ["ANY_DATABASE", "Browser", "Site", "serving"]

ANY_DATABASE: Final = (
    "sqlite",
    pytest.param("postgresql", marks=pytest.mark.slow),
    pytest.param("mariadb", marks=pytest.mark.slow),
)
"""The kinds of database, for a fixture; database servers are for slow runs."""

_LAST = ("COMPLETED", "FAILED", "CANCELLED")


@frozen
class Browser:
    """Keeps cookies, and sends the same header fields with every request."""

    client: Client
    fields: dict[str, str] = field(factory=dict)
    cookies: dict[str, str] = field(factory=dict)

    def request(self, method: str, path: str, body: bytes | None = None, **fields: str) -> Page:
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        headers = {**self.fields, **fields, **({"Cookie": cookies} if cookies else {})}
        page = self.client.request(method, path, body=body, headers=headers)
        for name, morsel in SimpleCookie(page.headers.get("set-cookie", "")).items():
            self.cookies[name] = morsel.value
            if not morsel.value:
                del self.cookies[name]
        return page

    def get(self, path: str) -> Page:
        page = self.request("GET", path)
        assert page.status == 200, (path, page.status, page.text)
        return page

    def start(self, path: str, **options: Any) -> Any:
        """Start a job. Returns its ``id`` and ``url``."""
        page = self.request("POST", "/start", json.dumps({"path": path, **options}).encode())
        assert page.status == 200, (page.status, page.text)
        return page.json()

    def end(self, started: Any) -> Any:
        """Wait for a job's end. Returns its state."""
        pause, deadline = threading.Event(), time.monotonic() + WAIT
        while (state := self.get(started["url"]).json())["status_name"] not in _LAST:
            assert time.monotonic() < deadline, state
            pause.wait(0.02)
        return state


@frozen
class Site:
    """A running project."""

    server: Server

    def browser(self, **fields: str) -> Browser:
        return Browser(self.server.client, {name.replace("_", "-"): value for name, value in fields.items()})


@contextmanager
def serving(kind: str, directory: Path, *, module: str = "served", **settings: Any) -> Iterator[Site]:
    """Run the project on a server of this kind within the block, with these settings. ``module`` has its applications.

    Without ``DATABASES`` it has a copy of the tests' own, and needs the fixture ``sqlite``.
    """
    path = directory / "site.db"
    if "DATABASES" not in settings:
        with closing(connections["default"].copy()) as connection, connection.cursor() as cursor:
            cursor.execute("VACUUM INTO %s", [str(path)])
        with closing(sqlite3.connect(path)) as copy:
            copy.execute("PRAGMA journal_mode=WAL")  # as `migrate` leaves it: two threads can't change it at once
    how = KINDS[kind]
    app = f"tests.adapters.django.{module}:{'app' if how.gateway == 'wsgi' else 'asgi'}"
    environment = {"SITE_DATABASE": str(path), "SITE_SETTINGS": json.dumps(settings)}
    with running(how, app, directory, environment) as server:
        yield Site(server)
