"""Processes that end: what they have started is delivered at once, by themselves or by another process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from backjob import Status
from backjob.delivery.keeping import LEASE
from tests.faults.killing import wait_until_asleep
from tests.scenarios.servers import KINDS
from tests.scenarios.sites import Site, serving, settings

pytestmark = pytest.mark.slow

ROOT: Final = Path(__file__).parents[2]
SOON: Final = LEASE / 2
"""Seconds until a job has ended. That of a process which was killed has to wait for the rest of its lease."""

SCRIPT: Final = """
import sys
from pathlib import Path
from backjob import BackJob
from backjob.signing import MessageSigner
from backjob.stores import open_store
from backjob.transports.sockets import SocketTransport
from tests.scenarios.sites import KEY, store_url

transport = SocketTransport(sys.argv[2])
jobs = BackJob(open_store(store_url(Path(sys.argv[1]))), transport, MessageSigner(KEY))
print('id:', jobs.start("/work/none", as_current_user=False))
"""
"""It starts a job, and ends: its arguments are the site's directory and a base URL."""


def run(*command: str, directory: Path, given: str = "", **environment: str) -> str:
    """Run a program to its end, and return the id that it prints."""
    done = subprocess.run(
        command,
        input=given,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
        env={**os.environ, **settings(directory), **environment},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    found = re.search(r"id: (\S+)", done.stdout)
    assert found is not None, done.stdout
    return found.group(1)


def base_url(site: Site) -> str:
    return f"http://127.0.0.1:{site.server.client.address[1]}"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving(KINDS["waitress"], "flask_app:app", tmp_path) as site:
        yield site


def test_a_script_that_ends_right_after_start_waits_for_the_claim(site: Site) -> None:
    job_id = run(sys.executable, "-c", SCRIPT, str(site.directory), base_url(site), directory=site.directory)
    assert site.jobs.status(job_id).status is not Status.STARTED
    assert site.jobs.join(job_id, SOON).status is Status.COMPLETED
    assert site.runs(job_id) == 1


def test_a_script_that_cannot_deliver_its_job_leaves_it_to_the_site(site: Site) -> None:
    job_id = run(sys.executable, "-c", SCRIPT, str(site.directory), "http://127.0.0.1:9", directory=site.directory)
    assert site.jobs.join(job_id, SOON).status is Status.COMPLETED
    assert site.runs(job_id) == 1


@pytest.mark.parametrize("reachable", [True, False])
def test_a_shell_of_flask_delivers_what_it_starts_or_leaves_it_to_the_site(site: Site, reachable: bool) -> None:
    given = "from tests.scenarios.apps.flask_app import jobs; print('id:', jobs.start('/work/none', as_current_user=False))\n"
    command = (sys.executable, "-m", "flask", "--app", "tests.scenarios.apps.flask_app:flask_app", "shell")
    url = base_url(site) if reachable else "http://127.0.0.1:9"
    job_id = run(*command, directory=site.directory, given=given, BACKJOB_BASE_URL=url)
    assert site.jobs.join(job_id, SOON).status is Status.COMPLETED


@pytest.mark.parametrize(
    ("kind", "app"),
    [
        ("gunicorn-sync-2", "plain_app"),
        ("gunicorn-threads", "flask_app"),
        ("uvicorn-h11", "asgi_app"),
        ("granian-wsgi", "plain_app"),
    ],
)
def test_a_server_that_ends_gives_its_leases_back_without_waiting(kind: str, app: str, tmp_path: Path) -> None:
    with serving(
        KINDS[kind], f"{app}:app", tmp_path, BACKJOB_BASE_URL="http://127.0.0.1:9", BACKJOB_CONNECT_TO="127.0.0.1:9"
    ) as site:
        job_id = site.start("/work/none", as_current_user=False)
        before = site.jobs.store.get(job_id)
        assert before is not None
        assert before.lessee is not None
        wait_until_asleep(site.server.process.pid)
        site.server.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            site.server.process.wait(LEASE - 1)
        assert site.server.process.returncode is not None, site.server.tail()
        after = site.jobs.store.get(job_id)
    assert after is not None
    assert (after.status, after.lessee) == (Status.STARTED, None)
