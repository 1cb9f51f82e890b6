"""schemathesis compares the status routes on real servers with their OpenAPI description."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from backjob import BackJob
from backjob.jobs import engine_of
from backjob.lifecycle import cancelled, completed, failed
from backjob.model import Changes, Expect, JsonValue
from tests.docs.description import description
from tests.scenarios.servers import KINDS
from tests.scenarios.sites import serving
from tests.unit.acting import Acting

TIMEOUT: Final = 250.0  # s
EXAMPLES: Final = 20
FEW_EXAMPLES: Final = 4
STREAMS: Final = {"BACKJOB_STREAMS": "2"}
"""Event streams are off by default on servers with threads."""


def references(jobs: BackJob) -> list[str]:
    """References to jobs of every status: for each job one that may cancel it, and one that may not."""
    running = Acting(jobs, "reports", "ann").claim()
    running.report(progress=40, text="Exporting", output="line ä\n" * 20)
    ended = [Acting(jobs).claim().end(end, "an end") for end in (completed, failed, cancelled)]
    files = engine_of(jobs).files
    assert files is not None
    files.write(ended[0].id, "kept", io.BytesIO(b"a;b"))
    described: JsonValue = {"name": "a.csv", "type": "text/csv", "size": 3, "key": "kept"}
    assert ended[0].store.change(ended[0].id, Expect(), Changes(file=described))
    every = (Acting(jobs), running, *ended)
    return [jobs.status_url(job.id, cancel=cancel).rpartition("/")[2] for job in every for cancel in (True, False)]


def described(references: list[str]) -> dict[str, Any]:
    """The description with these references as the only ids; event streams only for jobs that have ended."""
    value = description()
    value["components"]["parameters"]["Id"]["schema"] = {"type": "string", "enum": references}
    value["paths"]["/{id}/events"]["parameters"] = [
        {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "enum": references[-6:]}}
    ]
    return value


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("app", "kind", "accept", "examples"),
    [
        ("plain_app", "waitress", "application/json", FEW_EXAMPLES),
        *(
            pytest.param(*case, EXAMPLES, marks=pytest.mark.nightly)
            for case in (
                ("plain_app", "waitress", "application/json"),
                ("asgi_app", "uvicorn-h11", "text/html"),
                ("flask_app", "gunicorn-threads", "text/plain"),
            )
        ),
    ],
)
def test_every_response_matches_the_description(
    tmp_path: Path, app: str, kind: str, accept: str, examples: int
) -> None:
    pytest.importorskip("schemathesis", reason="schemathesis is not installed: pip install -e '.[test]'")
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
                *["--generation-deterministic", "--max-examples", str(examples), "--request-timeout", "20"],
                *["--warnings", "off"],  # with few examples, some routes only refuse
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "No issues found" in done.stdout
