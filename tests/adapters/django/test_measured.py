"""OpenTelemetry and django-prometheus, which insert their middlewares before backjob's or directly behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from tests.adapters.django.sites import serving

BEFORE = "django_prometheus.middleware.PrometheusBeforeMiddleware"
AFTER = "django_prometheus.middleware.PrometheusAfterMiddleware"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gunicorn-sync", "uvicorn-h11"])
@pytest.mark.parametrize("position", ["0", "1"], ids=["first", "second"])
def test_a_job_runs_and_every_span_ends_in_the_tree_of_its_request(
    kind: str, position: str, sqlite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_DJANGO_MIDDLEWARE_POSITION", position)
    monkeypatch.setenv("SITE_SPANS", str(tmp_path / "spans"))
    monkeypatch.setenv("BACKJOB_OPENTELEMETRY", "yes")
    ours, *others = settings.MIDDLEWARE
    middleware = [*([BEFORE, ours] if position == "0" else [ours, BEFORE]), *others, AFTER]
    with serving(kind, tmp_path, module="traced", MIDDLEWARE=middleware, ALLOWED_HOSTS=["shop.example"]) as site:
        bo = site.browser()
        bo.get("/login/Bo")
        assert bo.end(bo.start("see"))["status_name"] == "COMPLETED"
        failed = bo.end(bo.start("/fail/word"))
        assert failed["status_text"] == "no such customer"
        assert bo.request("GET", "/only").status == 403
        bo.get("/ready")
    spans: list[Any] = [json.loads(line) for line in (tmp_path / "spans").read_text(encoding="utf-8").splitlines()]
    names = [span["name"] for span in spans]
    assert {"GET see", "GET fail<how>", "GET only", "GET ready"} <= {name.replace("/", "") for name in names}, names
    by_id = {span["context"]["span_id"]: span for span in spans}
    trees = [(span["name"], root_of(span, by_id)) for span in spans]
    # Each job belongs to the request that started it; whatever else arrives is a tree of its own.
    assert ("run default", "POST start") in trees
    assert {root for name, root in trees if name.split()[0] in ("start", "run")} == {"POST start"}
    assert {root for name, root in trees if name in ("GET see", "GET fail/<how>")} == {"POST start"}
    assert [pair for pair in trees if pair[0] == "GET only"] == [("GET only", "GET only")]


def root_of(span: Any, by_id: dict[str, Any]) -> str:
    while span["parent_id"] is not None:
        span = by_id[span["parent_id"]]
    return str(span["name"])
