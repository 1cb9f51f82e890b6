"""The OpenAPI description of the status routes, held against real servers by schemathesis."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from backjob import BackJob
from backjob.lifecycle import cancelled, completed, failed
from tests.docs.description import description
from tests.scenarios.servers import KINDS
from tests.scenarios.sites import serving
from tests.unit.acting import Acting

PATIENCE: Final = 250.0  # s
EXAMPLES: Final = 20
STREAMS: Final = {"BACKJOB_STREAMS": "2"}
"""Servers with threads have no event streams unless they are told to."""


def references(jobs: BackJob) -> list[str]:
    """Jobs of every status, each by an address that may cancel it, and by one that may not."""
    running = Acting(jobs, "reports", "ann").claim()
    running.report(progress=40, text="Exporting", output="line ä\n" * 20)
    ended = [Acting(jobs).claim().end(end, "an end") for end in (completed, failed, cancelled)]
    every = (Acting(jobs), running, *ended)
    return [jobs.status_url(job.id, cancel=may).rpartition("/")[2] for job in every for may in (True, False)]


def described(references: list[str]) -> dict[str, Any]:
    """The description with these for ids, as nobody could guess one, and no event stream that would not end."""
    value = description()
    value["components"]["parameters"]["Id"]["schema"] = {"type": "string", "enum": references}
    value["paths"]["/{id}/events"]["parameters"] = [
        {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "enum": references[-6:]}}
    ]
    return value


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("app", "kind", "accept"),
    [
        ("plain_app", "waitress", "application/json"),
        ("asgi_app", "uvicorn-h11", "text/html"),
        ("flask_app", "gunicorn-threads", "text/plain"),
    ],
)
def test_no_request_is_answered_but_as_described(tmp_path: Path, app: str, kind: str, accept: str) -> None:
    pytest.importorskip("schemathesis", reason="it sends the requests: pip install -e '.[test]'")
    with serving(KINDS[kind], f"{app}:app", tmp_path, **STREAMS) as site:
        file = tmp_path / "openapi.json"
        file.write_text(json.dumps(described(references(site.jobs))), encoding="utf-8")
        address = site.client.address
        assert isinstance(address, tuple)
        done = subprocess.run(
            [
                *[sys.executable, "-m", "schemathesis.cli", "--no-color", "run", str(file)],
                *["--url", f"http://{address[0]}:{address[1]}/backjob", "--header", f"Accept: {accept}"],
                *["--phases", "coverage,fuzzing", "--checks", "all", "--continue-on-failure", "--no-shrink"],
                *["--generation-deterministic", "--max-examples", str(EXAMPLES), "--request-timeout", "20"],
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "No issues found" in done.stdout
