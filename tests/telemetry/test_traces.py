"""One trace from start() over the action to the jobs that it starts, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from tests.scenarios.client import WAIT, wait_until
from tests.scenarios.servers import KINDS, running

pytestmark = pytest.mark.slow

ROOT: Final = Path(__file__).parents[2]
STARTING: Final = """
from tests.telemetry.watched import jobs, spans
job_id = jobs.start("/outer", {"token": "of the query"}, as_current_user=False, title="Outer")
jobs.join(job_id, timeout=30)
jobs.close()
print(spans())
"""


def name_of(span: Any) -> str:
    attributes = span["attributes"]
    kind = span["kind"].removeprefix("SpanKind.")
    return f"{kind} {attributes['url.path']}" if "url.path" in attributes else f"{kind} {attributes.get('http.target')}"


def started_elsewhere(environment: dict[str, str]) -> list[Any]:
    """Start a job in a process of its own, and wait for its end. Returns that process's spans."""
    done = subprocess.run(
        [sys.executable, "-c", STARTING],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
        timeout=2 * WAIT,
        check=True,
    )
    found: list[Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("kind", "app", "path"),
    [
        ("waitress", "app", ["PRODUCER /outer", "CONSUMER /outer", "PRODUCER /inner", "CONSUMER /inner"]),
        (
            "uvicorn-httptools",
            "asgi",
            [
                *("PRODUCER /outer", "SERVER /outer", "CONSUMER /outer"),
                *("PRODUCER /inner", "SERVER /inner", "CONSUMER /inner"),
            ],
        ),
    ],
    ids=["threads", "async, within instrumentation"],
)
def test_a_trace_over_two_processes_is_one_tree(kind: str, app: str, path: list[str], tmp_path: Path) -> None:
    environment = {"SITE_DIRECTORY": str(tmp_path)}
    with running(KINDS[kind], f"tests.telemetry.watched:{app}", tmp_path, environment) as server:
        address: Any = server.client.address
        first = started_elsewhere(environment | {"SITE_URL": "http://{}:{}".format(*address)})

        def all_spans() -> list[Any]:
            found: list[Any] = first + server.client.request("GET", "/spans").json()
            return found

        wait_until(lambda: "CONSUMER /inner" in map(name_of, all_spans()))
        spans = {span["context"]["span_id"]: span for span in all_spans()}
    [last] = [span for span in spans.values() if name_of(span) == "CONSUMER /inner"]
    ancestors = [last]
    while (parent := ancestors[-1]["parent_id"]) is not None:
        ancestors.append(spans[parent])
    assert [name_of(span) for span in reversed(ancestors)] == path
    tree = [span for span in spans.values() if span["context"]["trace_id"] == last["context"]["trace_id"]]
    assert [span for span in tree if span["parent_id"] is None] == [ancestors[-1]]
    assert [name_of(span) for span in first] == ["PRODUCER /outer"]
    ours = [span for span in spans.values() if "messaging.system" in span["attributes"]]
    assert "of+the+query" not in json.dumps(ours)
    assert "backjob-signature" not in json.dumps(list(spans.values()))
