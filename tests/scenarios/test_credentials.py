"""Neither the server's log nor the store's files contain the credentials of the user who starts a job."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest

from backjob import Status
from tests.scenarios.servers import KINDS
from tests.scenarios.sites import serving

VISITOR = {"Cookie": "user=ann; session=0ddC00kie", "Authorization": "Bearer 0ddT0ken", "X-Api-Key": "0ddApiK3y"}
SECRETS = (b"0ddC00kie", b"0ddT0ken", b"0ddApiK3y", b64encode(b'[["X-Api-Key","0ddApiK3y"]]'))


@pytest.mark.parametrize(
    ("app", "server", "more"),
    [
        pytest.param("flask_app", "werkzeug", {}, marks=pytest.mark.slow),
        pytest.param("plain_app", "wsgiref", {}, marks=pytest.mark.slow),
        ("plain_app", "gunicorn-threads", {"BACKJOB_SEAL": "yes"}),
    ],
    ids=["werkzeug", "wsgiref", "sealed"],
)
def test_logs_and_store_files_contain_no_credentials(
    tmp_path: Path, app: str, server: str, more: dict[str, str]
) -> None:
    with serving(KINDS[server], f"{app}:app", tmp_path, BACKJOB_CREDENTIAL_HEADERS="X-Api-Key", **more) as site:
        ends = {
            site.run(path, query, visitor=VISITOR, owner="ann").status
            for path, query in (
                ("/work/none", None),
                ("/work/members", None),
                ("/work/fail", {"text": "enough"}),
                ("/work/raise", {"text": "torn"}),
                ("/work/answer", {"status": 302, "location": "/login"}),
                ("/nowhere", None),
            )
        }
        waiting = site.start("/work/none", {"late": 1}, visitor=VISITOR, delay=3600)
        refused = site.client.request("POST", "/start", headers=VISITOR, body=b'{"path": "work"}')
        assert (refused.status, ends) == (400, {Status.COMPLETED, Status.FAILED})
        # Includes a waiting job, and the database's write-ahead log, which exists only while the database is open.
        kept = {file.name: file.read_bytes() for file in tmp_path.glob("jobs.db*")}
        assert site.jobs.status(waiting).status is Status.STARTED
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    assert b"torn" in files["server.log"]
    assert waiting.encode() in b"".join(kept.values())
    for secret in SECRETS:
        assert not [name for name, data in (*kept.items(), *files.items()) if secret in data]
        assert secret.decode() not in refused.text
