"""No signature in any byte of access logs and of Sentry's envelopes, on real servers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import pytest

from backjob import Status
from backjob.model import Grant, Request
from backjob.signing import MessageSigner
from tests.scenarios.client import Client, wait_until
from tests.scenarios.servers import Kind, gunicorn, hypercorn, python_server, running, uvicorn
from tests.scenarios.sites import KEY, jobs_at

pytestmark = pytest.mark.slow

SERVERS: Final = {
    "gunicorn": Kind(name="gunicorn", command=gunicorn("--workers=1", "--access-logfile=-")),
    "uvicorn": Kind(name="uvicorn", command=uvicorn("--log-level=info"), gateway="asgi"),
    "hypercorn": Kind(
        name="hypercorn",
        command=hypercorn("--access-logfile=-", "--access-logformat=%(m)s %(Uq)s %(s)s"),
        gateway="asgi",
    ),
    "werkzeug": Kind(name="werkzeug", command=python_server("werkzeug")),
}


def send_signed(client: Client, path: str, job_id: str, key: str = KEY) -> int:
    """Send a worker request as if it had been copied. Returns the status."""
    now = int(time.time())
    signed = MessageSigner(key).sign(Request("GET", path), Grant(job_id, 1, 9, now, now + 60))
    return client.request("GET", signed.target, headers=dict(signed.headers)).status


@pytest.mark.parametrize(
    "server",
    ["gunicorn", "uvicorn", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("hypercorn", "werkzeug"))],
)
def test_no_byte_of_an_access_log_or_of_sentry_has_a_signature(server: str, tmp_path: Path) -> None:
    kind, envelopes = SERVERS[server], tmp_path / "envelopes"
    app = "app" if kind.gateway == "wsgi" else "asgi"
    # werkzeug's log has the request as it arrived, and gunicorn's too if the application raises.
    filtered = {"werkzeug": "werkzeug", "gunicorn": "gunicorn.access gunicorn.error"}.get(server, "")
    hides = "yes" if server in ("uvicorn", "werkzeug") else ""
    environment = {"SITE_DIRECTORY": str(tmp_path), "SITE_ENVELOPES": str(envelopes), "SITE_HIDES": hides}
    environment["SITE_FILTERED"] = filtered
    with (
        running(kind, f"tests.telemetry.reported:{app}", tmp_path, environment) as site,
        jobs_at(tmp_path) as jobs,
    ):
        ids = [site.client.request("GET", f"/start?{path}").text for path in ("/work", "/fails")]
        assert [jobs.join(job_id, timeout=30).status for job_id in ids] == [Status.COMPLETED, Status.FAILED]
        assert send_signed(site.client, "/work?rows=50", ids[0]) == 409
        assert (
            send_signed(site.client, "/work?rows=50", ids[0], "another key, which is as long as that of the site")
            == 403
        )
        wait_until(lambda: b" 403" in site.log.read_bytes() and b"no rows" in envelopes.read_bytes())
    log, sentry = site.log.read_bytes(), envelopes.read_bytes()
    for line in (b"/work?rows=50", b"/fails?rows=50", b" 409", b" 403", b"/backjob/probe"):
        assert line in log, log.decode()
    assert b"rows=50" in sentry
    assert b"backjob-signature" not in log, log.decode()
    assert b"backjob-signature" not in sentry
