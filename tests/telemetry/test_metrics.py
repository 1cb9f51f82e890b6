"""Prometheus's text before and after 100 jobs, in one process and in two."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.scenarios.client import Client, wait_until
from tests.scenarios.servers import KINDS, running

pytestmark = pytest.mark.slow


def samples(client: Client) -> dict[str, float]:
    """The values by name and labels, without buckets."""
    families = text_string_to_metric_families(client.request("GET", "/metrics").text)
    return {
        " ".join([sample.name.removeprefix("backjob_"), *sorted(sample.labels.values())]): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith("backjob_") and not sample.name.endswith(("_bucket", "_created"))
    }


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("waitress", id="one process"),
        pytest.param("gunicorn-sync-2", id="two processes", marks=pytest.mark.nightly),
    ],
)
def test_the_sums_agree_before_and_after_a_hundred_jobs(kind: str, tmp_path: Path) -> None:
    several = tmp_path / "several"
    several.mkdir()
    environment = {"SITE_DIRECTORY": str(tmp_path)}
    environment |= {"PROMETHEUS_MULTIPROC_DIR": str(several)} if kind == "gunicorn-sync-2" else {}
    with running(KINDS[kind], "tests.telemetry.watched:app", tmp_path, environment) as server:
        client = server.client
        before = samples(client)
        for path, count in (("/inner", 80), ("/fails", 20)):
            assert len(client.request("GET", f"/start?path={path}&count={count}").json()) == count

        def ended() -> float:
            return sum(value for name, value in samples(client).items() if name.startswith("jobs_ended_total"))

        wait_until(lambda: ended() == 100)
        after = samples(client)
    assert sum(value for name, value in before.items() if name.startswith("jobs_")) == 0
    found = {name: value for name, value in after.items() if "_sum" not in name}
    assert found.pop("duplicates_refused_total", 0) >= 0
    assert found == {
        "jobs_accepted_total default": 100,
        "jobs_ended_total completed default": 80,
        "jobs_ended_total default failed": 20,
        "jobs_waiting default": 0,
        "jobs_running default": 0,
        "wait_seconds_count default": 100,
        "run_seconds_count completed default": 80,
        "run_seconds_count default failed": 20,
    }
