"""The demo: one job by a real self-request, and the page that starts and shows jobs."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from backjob import InvalidRequest, Status
from backjob.cli.demo.server import Demo, demo

ROOT = Path(__file__).parents[3]
TIMEOUT = 60.0  # s


def program(*arguments: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BACKJOB_")}
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-m", "backjob", "demo", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# --- once -----------------------------------------------------------------------------------------------------------


def test_once_runs_one_job_prints_it_and_exits_with_0() -> None:
    with program("--once") as running:
        out, err = running.communicate(timeout=TIMEOUT)
    assert running.returncode == 0
    assert err == ""
    lines = out.splitlines()
    assert lines[-1] == "COMPLETED   100 %  100 rows exported"
    output = [line for line in lines if not re.match("STARTED|IN_PROGRESS|COMPLETED", line)]
    assert output == ["exporting 100 rows", *(f"{row} rows written" for row in range(10, 101, 10))]
    percents = [int(found) for found in re.findall(r"^IN_PROGRESS +(\d+) %", out, re.MULTILINE)]
    assert percents == sorted(percents)
    assert any(0 < percent < 100 for percent in percents)


@pytest.mark.slow
def test_once_exits_with_1_if_the_job_fails() -> None:
    with program("--once", "--fail") as running:
        out, err = running.communicate(timeout=TIMEOUT)
    assert running.returncode == 1
    assert re.fullmatch(r"job \S+ \(/work, run 1\) failed: row 51 can't be exported \(--fail\)\n", err)  # the log
    assert re.search(r"^FAILED .*row 51 can't be exported", out, re.MULTILINE)


# --- serving --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo_prints_its_url_starts_a_job_and_stops_on_ctrl_c() -> None:
    with program("--port", "0") as running:
        assert running.stdout is not None
        url = re.search(r"http://127\.0\.0\.1:\d+", running.stdout.readline())
        assert url is not None
        page = get(url[0], "/")
        assert page[0] == 200
        while not running.stdout.readline().startswith("IN_PROGRESS"):
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=TIMEOUT)
    assert running.returncode == 0
    assert re.fullmatch(r"job \S+ \(/work, run 1\) failed: the demo was stopped\n", err)  # the log
    assert out.endswith("demo stopped\n")


@pytest.mark.slow
def test_a_port_in_use_is_reported_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with program("--port", str(port)) as running:
            out, err = running.communicate(timeout=TIMEOUT)
    assert running.returncode == 64
    assert out == ""
    assert err.count("\n") == 1
    assert f"can't listen on 127.0.0.1:{port}: Address already in use" in err


@pytest.fixture
def running() -> Iterator[Demo]:
    with demo("127.0.0.1", 0, pause=0.002) as running:
        yield running


def get(url: str, path: str, method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()
    finally:
        connection.close()


class Elements(HTMLParser):
    """The elements of a page, and its inline scripts and styles, which a strict policy blocks."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.found: dict[str, dict[str, str | None]] = {}
        self.inline: list[str] = []
        self._inside = ""
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found[tag] = dict(attrs)
        self._inside = tag
        self.inline += [name for name, _ in attrs if name == "style" or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style") and data.strip():
            self.inline.append(data)


def test_the_button_starts_a_job_and_the_page_shows_it_until_its_end(running: Demo) -> None:
    status, _, markup = get(running.url, "/")
    assert status == 200
    assert "backjob-progress" not in Elements(markup).found
    form = Elements(markup).found["form"]
    assert form == {"method": "post", "action": "/start"}

    status, headers, _ = get(running.url, "/start", "POST")
    assert (status, headers["Location"]) == (303, "/")
    element = Elements(get(running.url, "/")[2]).found["backjob-progress"]
    assert "output" in element
    assert "cancel" in element
    source = element["src"]
    assert source is not None
    job_id = running.site.newest
    assert job_id is not None
    assert running.jobs.join(job_id, TIMEOUT).status is Status.COMPLETED
    status, _, state = get(running.url, source)
    assert status == 200
    assert '"COMPLETED"' in state
    assert "100 rows written" in get(running.url, f"{source}/output?offset=0")[2]
    status, _, table = get(running.url, "/export.csv")
    assert (status, table.splitlines()[-1]) == (200, "100,10000")


def test_the_page_complies_with_its_strict_content_security_policy(running: Demo) -> None:
    running.site.start()
    _, headers, markup = get(running.url, "/")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    page = Elements(markup)
    assert page.inline == []
    for address in (page.found["script"]["src"], page.found["link"]["href"]):
        assert address is not None
        assert get(running.url, address)[0] == 200


def test_the_action_runs_only_in_the_background(running: Demo) -> None:
    assert get(running.url, "/work")[0] == 403


def test_a_page_of_another_site_cannot_start_a_job(running: Demo) -> None:
    assert get(running.url, "/start", "POST", Sec_Fetch_Site="cross-site")[0] == 403
    assert running.site.newest is None


def test_an_unknown_route_is_not_found(running: Demo) -> None:
    assert get(running.url, "/nothing")[0] == 404
    assert get(running.url, "/start")[0] == 404


def test_stopping_the_demo_ends_its_running_job() -> None:
    with demo("127.0.0.1", 0, pause=TIMEOUT) as running:
        job_id = running.site.start()
        states = running.jobs.watch(job_id)
        assert any(state.status is Status.IN_PROGRESS for state in states)
        running.site.stop(TIMEOUT)
        state = running.jobs.status(job_id)
    assert (state.status, state.status_text) == (Status.FAILED, "the demo was stopped")


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_the_demo_can_listen_on_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with demo("::1", 0, pause=0.0) as running:
        assert running.url.startswith("http://[::1]:")
        assert running.jobs.join(running.site.start(), TIMEOUT).status is Status.COMPLETED


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", -1), ("127.0.0.1", 65536), ("host.invalid", 0)])
def test_an_impossible_address_is_refused(host: str, port: int) -> None:
    with pytest.raises(InvalidRequest, match="port"), demo(host, port):
        pass
