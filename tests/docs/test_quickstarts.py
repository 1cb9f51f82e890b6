"""The three quickstarts work as printed, on a server with two processes: a double click, a bar, a file, the list."""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import ROOT, blocks
from tests.docs.serving import TIMEOUT, Response, fetch, served, until_ended
from tests.docs.test_django_page import run

pytestmark = pytest.mark.slow

ROWS: Final = 5
SETTINGS: Final = ("FLASK_", "BACKJOB_", "WERKZEUG_", "DJANGO_", "SECRET_KEY")
GUNICORN: Final = "gunicorn --workers 2 --threads 4"


def environment() -> dict[str, str]:
    """The environment without settings of an application."""
    return {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)} | {
        "PYTHONPATH": str(ROOT)
    }


def saved(page: str, directory: Path) -> None:
    """Save the files of the page, with fewer rows. `shop/settings.py` is appended to the one of startproject."""
    for block in blocks(ROOT / "docs" / page):
        if block.title:
            file = directory / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            code = re.sub(r"(rows[\"']?[=:] ?)50", rf"\g<1>{ROWS}", block.code)
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
def flask_site(directory: Path) -> Iterator[Visitor]:
    saved("quickstart.md", directory)
    with served(
        command("quickstart.md", GUNICORN), directory, environment(), r"Listening at: http://\S+:(\d+)"
    ) as port:
        yield Visitor(port)


@contextmanager
def django_site(directory: Path) -> Iterator[Visitor]:
    run(directory, "-m", "django", "startproject", "shop", ".")
    saved("quickstart-django.md", directory)
    run(directory, "manage.py", "check", "--fail-level", "WARNING")
    run(directory, "manage.py", "migrate")
    code = (
        "from django.contrib.auth.models import User; from django.test import Client\n"
        "user = User.objects.create_superuser('ann'); client = Client(); client.force_login(user)\n"
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
def fastapi_site(directory: Path) -> Iterator[Visitor]:
    saved("quickstart-fastapi.md", directory)
    server = command("quickstart-fastapi.md", "uvicorn --workers 2")
    with served(server, directory, environment(), r"running on http://\S+:(\d+)") as port:
        until_it_listens(port)
        yield Visitor(port)


@pytest.mark.parametrize("site", [flask_site, django_site, fastapi_site], ids=["flask", "django", "fastapi"])
def test_a_double_click_starts_one_export_whose_file_can_be_downloaded(site: type, tmp_path: Path) -> None:
    framework = site.__name__.removesuffix("_site")
    pytest.importorskip(framework, reason=f"the page is about {framework}")
    pytest.importorskip("uvicorn" if framework == "fastapi" else "gunicorn", reason="the page's server")
    with site(tmp_path) as visitor:
        home = visitor.send("GET", "/")
        assert home.status == 200
        assert "<backjob-progress" not in home.text
        action = "/export/" if framework == "django" else "/export"
        assert f'action="{action}"' in home.text

        with ThreadPoolExecutor(2) as pool:  # a double click, answered by two processes
            answers = list(pool.map(lambda _: visitor.submit(action, home.text), range(2)))
        assert {answer.status for answer in answers} <= {302, 303}
        page = visitor.send("GET", "/").text
        source = re.search(r'<backjob-progress[^>]* src="([^"]+)"', page)
        assert source is not None
        for asset in re.findall(r'(?:src|href)="(/backjob/progress\.[a-z]+)"', page):
            assert visitor.send("GET", asset).status == 200

        state = until_ended(visitor.port, source[1])
        assert (state["status_name"], state["status_text"], state["title"]) == (
            "COMPLETED",
            "Your export is ready",
            "Orders",
        )
        output = fetch(visitor.port, "GET", f"{source[1]}/output", {"Accept": "text/plain"}).text
        assert output == "".join(f"order {number}\n" for number in range(ROWS))

        file = visitor.send("GET", f"{source[1]}/file")
        assert file.headers["Content-Disposition"].startswith("attachment")
        assert "orders.csv" in file.headers["Content-Disposition"]
        assert file.text.splitlines() == [f"{number},{10 * number}" for number in range(ROWS)]

        listed = visitor.send("GET", "/backjob/").text
        assert listed.count(">Orders<") == 1
        assert str(state["id"]) in listed
        assert "Orders" not in Visitor(visitor.port).send("GET", "/backjob/").text
