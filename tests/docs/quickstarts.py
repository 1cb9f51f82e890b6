"""The sites of the three quickstarts, as printed, on servers with two processes; with fewer rows, and able to fail."""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.docs.pages import ROOT, blocks
from tests.docs.serving import TIMEOUT, Response, fetch, served
from tests.docs.test_django_page import run

__all__ = ["PASSWORD", "ROWS", "SITES", "USER", "Visitor"]

ROWS: Final = 5
FINISH: Final = '    jobs.finish("Your export is ready")\n'
FAILURE: Final = '    if __import__("pathlib").Path("fail").exists():\n        jobs.fail("No such customer")\n'
USER, PASSWORD = "ann", "a password for tests"
SETTINGS: Final = ("FLASK_", "BACKJOB_", "WERKZEUG_", "DJANGO_", "SECRET_KEY")
GUNICORN: Final = "gunicorn --workers 2 --threads 4"


def environment() -> dict[str, str]:
    """The environment without settings of an application."""
    return {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)} | {
        "PYTHONPATH": str(ROOT)
    }


def saved(page: str, directory: Path, language: str) -> None:
    """Save the files of the page, with fewer rows, for pages in that language.

    The export fails while there is a file ``fail``. `shop/settings.py` is appended to the one of startproject.
    """
    for block in blocks(ROOT / "docs" / page):
        if block.title:
            file = directory / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            code = re.sub(r"(rows[\"']?[=:] ?)50", rf"\g<1>{ROWS}", block.code)
            code = code.replace(FINISH, FAILURE + FINISH).replace('lang="en"', f'lang="{language}"')
            code += f'LANGUAGE_CODE = "{language}"\n' if block.title == "shop/settings.py" else ""
            with file.open("a" if block.title == "shop/settings.py" else "w", encoding="utf-8") as opened:
                opened.write(code)


def command(page: str, program: str) -> list[str]:
    """The page's command for two processes, with a free port."""
    [line] = [
        block.code.strip()
        for block in blocks(ROOT / "docs" / page)
        if block.language == "sh" and "workers 2" in block.code
    ]
    assert line.startswith(program)
    port = ["--bind", "127.0.0.1:0", "--no-control-socket"] if program == GUNICORN else ["--port", "0"]
    name, *arguments = line.split()
    return [sys.executable, "-m", name, *arguments, *port]


class Visitor:
    """A browser without scripts: keeps cookies, and sends a form's hidden fields."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cookies: dict[str, str] = {}

    def send(self, method: str, path: str, fields: Mapping[str, str] | None = None) -> Response:
        headers = {
            "Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
            "Accept": "text/html",
        }
        headers["Sec-Fetch-Site"] = "same-origin"
        body = None
        if method == "POST":
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = "&".join(f"{name}={value}" for name, value in (fields or {}).items())
        response = fetch(self.port, method, path, {name: value for name, value in headers.items() if value}, body)
        for cookie in response.cookies:
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        return response

    def submit(self, path: str, page: str) -> Response:
        """Send the form of the page."""
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
        return self.send("POST", path, {"csrfmiddlewaretoken": token[1]} if token else {})


def until_it_listens(port: int) -> None:
    """Wait for a server that prints its port before it listens."""
    deadline, pause = time.monotonic() + TIMEOUT, threading.Event()
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            pause.wait(0.05)
        else:
            return


@contextmanager
def flask_site(directory: Path, language: str = "en") -> Iterator[Visitor]:
    saved("quickstart.md", directory, language)
    with served(
        command("quickstart.md", GUNICORN), directory, environment(), r"Listening at: http://\S+:(\d+)"
    ) as port:
        yield Visitor(port)


@contextmanager
def django_site(directory: Path, language: str = "en") -> Iterator[Visitor]:
    run(directory, "-m", "django", "startproject", "shop", ".")
    saved("quickstart-django.md", directory, language)
    run(directory, "manage.py", "check", "--fail-level", "WARNING")
    run(directory, "manage.py", "migrate")
    code = (
        "from django.contrib.auth.models import User; from django.test import Client\n"
        f"user = User.objects.create_superuser('{USER}', password='{PASSWORD}'); client = Client(); client.force_login(user)\n"
        "print('session:', client.cookies['sessionid'].value)"
    )
    session = re.search(r"session: (\w+)", run(directory, "manage.py", "shell", "-c", code))
    assert session is not None
    server = command("quickstart-django.md", GUNICORN)
    with served(server, directory, environment(), r"Listening at: http://\S+:(\d+)") as port:
        visitor = Visitor(port)
        assert visitor.send("GET", "/").location == "/admin/login/?next=/"
        visitor.cookies["sessionid"] = session[1]
        yield visitor


@contextmanager
def fastapi_site(directory: Path, language: str = "en") -> Iterator[Visitor]:
    saved("quickstart-fastapi.md", directory, language)
    server = command("quickstart-fastapi.md", "uvicorn --workers 2")
    with served(server, directory, environment(), r"running on http://\S+:(\d+)") as port:
        until_it_listens(port)
        yield Visitor(port)


SITES: Final = {"flask": flask_site, "django": django_site, "fastapi": fastapi_site}
"""The name of each framework, and its site: called with a directory and a language of its pages."""
