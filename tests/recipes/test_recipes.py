"""The recipes of docs/production.md run: a job in slices and a plain one survive each way to deploy.

The servers and proxies are real, and start from the files that the page shows.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backjob import Status
from backjob.stores import open_store
from tests.recipes.sites import RECIPES, Site, option
from tests.scenarios.client import Client
from tests.scenarios.fronts import require
from tests.services import POSTGRES, own_name

ROWS = 60  # of 0.05 s each
SECONDS = 3


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def started(site: Site) -> tuple[str, str]:
    """The status addresses of an import and a report which both run."""
    site.wait_until_ready()
    site.until(lambda: answers(site.upstream))  # with two servers, the proxy may have asked the other one
    rows, report = site.press(f"/import?rows={ROWS}"), site.press(f"/report?seconds={SECONDS}")
    site.until(lambda: len(site.rows(rows)) >= 5)
    site.until(lambda: bool(site.state(report)["progress"]))
    assert len(site.rows(rows)) < ROWS
    return rows, report


def answers(port: int) -> bool:
    """Whether a server responds at a port."""
    try:
        return Client(("127.0.0.1", port)).get("/").status == 200
    except OSError:
        return False


def ended(site: Site, url: str) -> dict[str, Any]:
    """The state of a job when it has ended."""
    site.until(lambda: site.state(url)["end_time"] is not None)
    return site.state(url)


def check_both(site: Site, rows: str, report: str) -> None:
    """The import was continued and has each row once, in order; the plain job was waited for."""
    state = ended(site, rows)
    assert (state["status_name"], state["status_text"]) == ("COMPLETED", "All rows are imported"), site.logs()
    assert site.rows(rows) == list(range(ROWS))
    assert [entry["reason"] for entry in state["history"]] == ["continued"]
    state = ended(site, report)
    assert (state["status_name"], state["status_text"]) == ("COMPLETED", "The report is ready"), site.logs()
    assert state["history"] == []


# --- gunicorn, nginx and systemd -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_gunicorn_behind_nginx_stops_gracefully_and_the_next_process_continues(site: Site) -> None:
    require("nginx")
    with site.nginx():
        with site.gunicorn() as server:
            rows, report = started(site)
            server.send_signal(signal.SIGTERM)  # systemctl stop
            assert server.wait(30) == 0
        with site.gunicorn():  # systemctl start
            site.wait_until_ready()  # ExecStartPost
            check_both(site, rows, report)


@pytest.mark.slow
def test_reloading_gunicorn_fails_no_request_and_continues_the_job(site: Site) -> None:
    require("nginx")
    with site.nginx(), site.gunicorn() as server:
        rows, report = started(site)
        site.reload(server)
        check_both(site, rows, report)  # asserts that each request for a state gets a 200
        assert site.client.get("/").status == 200


@pytest.mark.slow
def test_reloading_gunicorn_continues_the_job_although_no_visitor_comes(site: Site) -> None:
    require("nginx")
    with site.nginx(), site.gunicorn() as server:
        rows, _ = started(site)
        site.reload(server)
        job_id = rows.rpartition("/")[2].partition(".")[0]
        with closing(open_store(f"sqlite:///{site.directory}/jobs.db")) as store:
            site.until(lambda: (job := store.get(job_id)) is not None and job.status is Status.COMPLETED)
        assert site.rows(rows) == list(range(ROWS))


@pytest.mark.slow
def test_a_killed_gunicorn_is_noticed_and_the_import_goes_on_from_its_last_row(site: Site) -> None:
    require("nginx")
    with site.nginx(), site.gunicorn(FLASK_BACKJOB_RUN_LEASE="2"):
        rows, report = started(site)
    site.directory.joinpath("gunicorn.log").write_text("")
    with site.nginx(), site.gunicorn(FLASK_BACKJOB_RUN_LEASE="2"):  # the machine is back
        site.wait_until_ready()
        state = ended(site, rows)
        assert (state["status_name"], state["status_text"]) == ("COMPLETED", "All rows are imported"), site.logs()
        printed = site.rows(rows)
        assert sorted(set(printed)) == list(range(ROWS))
        assert len(printed) <= ROWS + 1  # the row in hand
        assert "the process that ran it ended" in state["history"][0]["reason"]
        state = ended(site, report)
        assert (state["status_name"], state["status_text"]) == ("FAILED", "the process that ran it ended")


# --- uvicorn behind nginx or Caddy -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("proxy", ["nginx", pytest.param("caddy", marks=pytest.mark.nightly)])
def test_uvicorn_behind_a_proxy_restarts_gracefully_and_the_next_process_continues(site: Site, proxy: str) -> None:
    pytest.importorskip("uvicorn")
    require(proxy)
    front = site.nginx if proxy == "nginx" else site.caddy
    with site.listen() as listening, front():
        with site.uvicorn(listening) as server:
            rows, report = started(site)
            server.send_signal(signal.SIGTERM)  # systemctl restart; systemd keeps the socket
            assert server.wait(30) in (0, -signal.SIGTERM)
        with site.uvicorn(listening):
            check_both(site, rows, report)  # asserts that each request for a state gets a 200


# --- Docker Compose with PostgreSQL ----------------------------------------------------------------------------------


def composed() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    services: dict[str, Any] = yaml.safe_load((RECIPES / "compose.yaml").read_text(encoding="utf-8"))["services"]
    return services


@pytest.mark.slow
@pytest.mark.services
def test_the_processes_of_the_compose_file_share_jobs_in_postgresql(site: Site) -> None:
    """Two containers, here without Docker: the image's command, the service's variables, one database, Caddy in front."""
    require("caddy")
    url = POSTGRES.require()
    [command] = re.findall(r"^CMD (\[.*\])$", (RECIPES / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    settings = {name: value for name, value in composed()["web"]["environment"].items() if name != "FLASK_SECRET_KEY"}
    assert settings["FLASK_BACKJOB_STORE"].startswith("postgresql://")
    settings["FLASK_BACKJOB_STORE"] = url
    settings["FLASK_BACKJOB_TABLE_NAME"] = own_name()
    second = Site(directory=site.directory / "second", front=site.front, key=site.key)
    with (
        site.caddy(f"127.0.0.1:{site.upstream} 127.0.0.1:{second.upstream}"),
        second.gunicorn(adapted(command, second), **settings),
    ):
        with site.gunicorn(adapted(command, site), **settings) as server:
            rows, report = started(site)
            server.send_signal(signal.SIGTERM)  # docker stop
            assert server.wait(30) == 0
        check_both(site, rows, report)


def adapted(command: str, site: Site) -> list[str]:
    """The command of the image, at the site's address instead of all addresses, as each container has its own."""
    return [part.replace("0.0.0.0:8000", f"127.0.0.1:{site.upstream}") for part in json.loads(command)]


def test_the_compose_file_names_files_that_exist_and_gives_gunicorn_time_to_stop() -> None:
    services = composed()
    assert set(services) == {"db", "web", "proxy"}
    assert all(
        (RECIPES / volume.partition(":")[0]).exists() for volume in services["proxy"]["volumes"] if volume[0] == "."
    )
    copied = re.findall(r"^COPY (.*) \./$", (RECIPES / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert [(RECIPES / name).exists() for name in copied[0].split()] == [True, True]
    assert seconds(services["web"]["stop_grace_period"]) > graceful_timeout()


# --- the times of the files ------------------------------------------------------------------------------------------


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def graceful_timeout() -> int:
    namespace: dict[str, Any] = {}
    exec((RECIPES / "gunicorn.conf.py").read_text(encoding="utf-8"), namespace)
    timeout: int = namespace["graceful_timeout"]
    return timeout


@pytest.mark.parametrize("unit", ["shop.service", "shop-uvicorn.service"])
def test_systemd_waits_longer_than_the_server_and_the_server_longer_than_a_slice(unit: str) -> None:
    options = re.search(r"--timeout-graceful-shutdown (\d+)", option(unit, "ExecStart"))
    timeout = int(options[1]) if options else graceful_timeout()
    assert 20 < timeout < seconds(option(unit, "TimeoutStopSec"))


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["shop.service", "shop-uvicorn.service", "shop-uvicorn.socket"])
def test_systemd_accepts_the_units(unit: str, tmp_path: Path) -> None:
    require("systemd-analyze")
    for name in ("shop.service", "shop-uvicorn.service", "shop-uvicorn.socket"):
        text = (RECIPES / name).read_text(encoding="utf-8")
        text = re.sub(r"^ExecStart=/srv/shop/.venv/bin/\w+", f"ExecStart={sys.executable}", text, flags=re.MULTILINE)
        (tmp_path / name).write_text(text, encoding="utf-8")
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(tmp_path / unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
