"""The examples of docs/observability.md do what the page says."""

from __future__ import annotations

import copy
import io
import json
import logging
import logging.config
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import structlog

from tests.docs.pages import ROOT, blocks
from tests.unit.core import bench

PAGE: Final = ROOT / "docs" / "observability.md"


def code_of(marker: str) -> str:
    [block] = [block for block in blocks(PAGE) if block.marker == marker]
    return block.code


def names_of(marker: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(code_of(marker), names)
    return names


def test_the_log_of_an_action_reads_as_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    config = copy.deepcopy(names_of("dict-config")["LOGGING"])
    written = io.StringIO()
    config["handlers"]["console"]["stream"] = written
    config["loggers"] = {"shop": {"handlers": config.pop("root")["handlers"], "level": "INFO", "propagate": False}}
    logging.config.dictConfig(config)
    running = bench().run(path="/export/work?rows=50", method="POST", body=b"")
    try:
        with running.active():
            logging.getLogger("shop.exports").info("50 rows")
    finally:
        logging.getLogger("shop").handlers.clear()
        logging.getLogger("shop").propagate = True
    shown = PAGE.read_text(encoding="utf-8").partition("```text\n")[2].partition("\n```")[0]
    expected = shown.replace("CZETz7XHgwyjEaWBr9VCk0au", running.job.id).replace("=2", "=1")
    assert written.getvalue() == f"{expected}\n"


def test_structlog_writes_the_job_into_each_line(capsys: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    running = bench().run()
    try:
        exec(code_of("structlog"), {})
        with running.active():
            structlog.get_logger().info("exported", rows=50)
    finally:
        structlog.configure(**before)
    line = json.loads(capsys.readouterr().err)
    assert (line["job_id"], line["route"], line["attempt"]) == (running.job.id, "GET /work", 1)


def test_the_filters_and_hooks_are_those_that_the_servers_tests_use() -> None:
    worker = names_of("signature-filter")["post_worker_init"]
    loggers = [logging.getLogger(name) for name in ("gunicorn.access", "gunicorn.error")]
    before = [list(logger.filters) for logger in loggers]
    worker(None)
    for logger, filters in zip(loggers, before, strict=True):
        [added] = [one for one in logger.filters if one not in filters]
        logger.removeFilter(added)
        assert type(added).__name__ == "SignatureFilter"


USED: Final = """
import sys
from pathlib import Path
import django
from django.conf import settings
settings.configure(
    SECRET_KEY="of the tests alone", ROOT_URLCONF="urls", ALLOWED_HOSTS=["testserver"],
    MIDDLEWARE=["marking", "metrics.BeforeMiddleware", "metrics.AfterMiddleware"],
    REST_FRAMEWORK={"UNAUTHENTICATED_USER": None},
    CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
)
django.setup()

from types import ModuleType
for name, code in (("metrics", sys.argv[1]), ("limits", sys.argv[2])):
    module = sys.modules[name] = ModuleType(name)
    exec(code, module.__dict__)

from django.http import HttpResponse
from django.urls import path
from rest_framework.decorators import api_view, throttle_classes, authentication_classes

@api_view(["GET"])
@authentication_classes([])
@throttle_classes([sys.modules["limits"].VisitorThrottle])
def work(request):
    return HttpResponse("done")

urls = sys.modules["urls"] = ModuleType("urls")
urls.urlpatterns = [path("work", work)]

def marking(get_response):
    def middleware(request):
        if "job" in request.GET:
            request.META["backjob.job"] = request.GET["job"]
        return get_response(request)
    return middleware

settings.MIDDLEWARE[0] = "marks.marking"
sys.modules["marks"] = ModuleType("marks")
sys.modules["marks"].marking = marking

from django.test import Client
client = Client()
visits = [client.get("/work").status_code for _ in range(12)]
jobs = [client.get("/work?job=1").status_code for _ in range(12)]
assert visits == [200] * 10 + [429] * 2, visits
assert jobs == [200] * 12, jobs

from prometheus_client import generate_latest
text = generate_latest().decode()
[line] = [
    line for line in text.splitlines()
    if line.startswith("django_http_responses_total_by_status_view_method") and 'job="yes"' in line and "created" not in line
]
assert line.endswith(" 12.0") and 'status="200"' in line, line
"""


@pytest.mark.slow
def test_jobs_are_not_limited_and_have_a_label() -> None:
    pytest.importorskip("django_prometheus")
    subprocess.run(
        [sys.executable, "-c", USED, code_of("django-prometheus"), code_of("rate-limit")],
        cwd=ROOT,
        check=True,
        timeout=60,
    )


def test_a_registry_for_several_processes_has_the_gauges_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    text = names_of("several-processes")["metrics"]().decode()
    assert "# TYPE backjob_jobs_waiting gauge" in text
