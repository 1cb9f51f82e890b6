"""Tasks on real servers: one request enqueues a task, another runs it, a third watches it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backjob.delivery.keeping import LEASE
from tests.adapters.django.sites import Browser, Site, serving
from tests.adapters.django.tasks.framework import restates
from tests.scenarios.client import WAIT, Gate

SERVERS = (
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("gunicorn-threads", "uvicorn-h11", "runserver")),
    *(pytest.param(kind, marks=pytest.mark.nightly) for kind in ("waitress", "gunicorn-sync-2", "hypercorn")),
)


@pytest.fixture(scope="module", params=SERVERS)
def site(request: pytest.FixtureRequest, sqlite: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving(request.param, tmp_path_factory.mktemp("site")) as site:
        yield site


def enqueued(browser: Browser, name: str, *args: Any, **how: Any) -> Any:
    """Let the site enqueue a task. Returns its ``id`` and ``url``."""
    page = browser.request("POST", f"/enqueue/{name}", json.dumps({"args": args, **how}).encode())
    assert page.status == 200, page.text
    assert page.json()["status"] == "READY"
    return page.json()


def end_of(browser: Browser, started: Any) -> Any:
    """The outcome of a task, as another request reads it."""
    looks, deadline = threading.Event(), time.monotonic() + WAIT
    while not (found := browser.get(f"/result/{started['id']}").json())["finished"]:
        assert time.monotonic() < deadline, found
        looks.wait(0.02)
    return found


@restates(
    "DatabaseWorkerProcessTestCase.run_subprocess", "DatabaseWorkerProcessTestCase.multiple_workers",
    "DatabaseBackendWorkerTestCase.run_enqueued_task",
)  # fmt: skip
def test_tasks_run_and_their_results_can_be_read(site: Site) -> None:
    browser = site.browser()
    names = {
        "answer": (), "answer_async": (), "report": (5,), "echo": ("ü",), "with_context": (3,), "who": (),
        "enqueue_another": (), "enqueue_another_async": (),
    }  # fmt: skip
    started = {name: enqueued(browser, name, *args) for name, args in names.items()}
    values = {}
    for name, task in started.items():
        found = end_of(browser, task)
        assert (found["status"], found["errors"]) == ("SUCCESSFUL", []), (name, found)
        values[name] = found["value"]
    assert (values["answer"], values["answer_async"], values["report"]) == (42, [42, True], 5)
    assert values["echo"] == [["ü"], {}]
    assert values["with_context"] == [started["with_context"]["id"], 1, "RUNNING", [3], 3]
    assert (values["who"]["job"], values["who"]["background"]) == (started["who"]["id"], True)
    for name in ("enqueue_another", "enqueue_another_async"):
        assert end_of(browser, {"id": values[name]})["status"] == "SUCCESSFUL"


@restates("DatabaseWorkerProcessTestCase.system_exit_task", "DatabaseWorkerProcessTestCase.keyboard_interrupt_task")
def test_failing_tasks_end_neither_the_server_nor_other_tasks(site: Site) -> None:
    browser = site.browser()
    lines = {
        "fail_by_value": ("builtins.ValueError", "ValueError: This failed by its value\n"),
        "fail_by_exit": ("builtins.SystemExit", "SystemExit: This failed by an exit\n"),
        "fail_by_exit_async": ("builtins.SystemExit", "SystemExit: This failed by an exit\n"),
        "fail_by_interrupt": ("builtins.KeyboardInterrupt", "KeyboardInterrupt: This failed by an interrupt\n"),
        "fail_by_interrupt_async": ("builtins.KeyboardInterrupt", "KeyboardInterrupt: This failed by an interrupt\n"),
        "return_oddly": ("builtins.TypeError", "TypeError: Unsupported type: <class 'function'>\n"),
        "fail_by_job": ("backjob.errors.JobFailed", "backjob.errors.JobFailed: no such customer\n"),
        "fail_in_a_group": ("backjob.errors.JobFailed", "backjob.errors.JobFailed: no such customer\n"),
    }
    for name, task in {name: enqueued(browser, name) for name in lines}.items():
        found = end_of(browser, task)
        assert (found["status"], found["value"]) == ("FAILED", None)
        ((kind, traceback),) = found["errors"]
        assert (kind, traceback.endswith(lines[name][1])) == (lines[name][0], True), (name, traceback)
    assert end_of(browser, enqueued(browser, "answer"))["value"] == 42


@pytest.mark.parametrize("task", ["hold", "hold_async"])
def test_a_running_task_can_be_watched(site: Site, task: str) -> None:
    browser = site.browser()
    with Gate() as gate:
        started = enqueued(browser, task, gate.port, 2)
        action = gate.reached()
        for step in range(2):
            state = watched(browser, started, f"held {step}")
            assert (state["status_name"], state["progress"]) == ("IN_PROGRESS", 10 * (step + 1))
            output = browser.get(f"{started['url']}/output?offset=0")
            assert output.json()["text"] == "".join(f"step {done}\n" for done in range(step + 1))
            found = browser.get(f"/result/{started['id']}").json()
            assert (found["status"], found["value"], found["finished"]) == ("RUNNING", None, False)
            action.proceed()
        assert action.left() == "returned"
    assert browser.end(started)["result"] == end_of(browser, started)["value"] == 2


def watched(browser: Browser, started: Any, text: str) -> Any:
    """Poll the status route until it returns this text. Returns the state."""
    looks, deadline = threading.Event(), time.monotonic() + WAIT
    while (state := browser.get(started["url"]).json())["status_text"] != text:
        assert time.monotonic() < deadline, state
        looks.wait(0.02)
    return state


@restates("DatabaseBackendWorkerTestCase.run_after")
def test_a_task_waits_until_it_is_due(site: Site) -> None:
    browser = site.browser()
    later, soon = (enqueued(browser, "noop", run_after=seconds) for seconds in (3600, 0.5))
    found = end_of(browser, soon)
    assert found["status"] == "SUCCESSFUL"
    assert found["started"] >= found["due"]
    assert browser.get(f"/result/{later['id']}").json()["status"] == "READY"


@pytest.mark.slow
@pytest.mark.parametrize("reachable", [True, False])
def test_a_task_enqueued_in_a_shell_runs_at_once(sqlite: str, tmp_path: Path, reachable: bool) -> None:
    with serving("gunicorn-threads", tmp_path) as site:
        port = site.server.client.address[1] if reachable else 9
        environment = {
            "DJANGO_SETTINGS_MODULE": "tests.adapters.django.settings",
            "SITE_DATABASE": str(tmp_path / "site.db"),
            "BACKJOB_BASE_URL": "http://shop.example",
            "BACKJOB_CONNECT_TO": f"127.0.0.1:{port}",
        }
        code = "from tests.adapters.django.work import answer; print('id', answer.enqueue().id)"
        command = [sys.executable, "-m", "django", "shell", "-c", code]
        shell = subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=True
        )
        began = time.monotonic()
        found = end_of(site.browser(), {"id": shell.stdout.split()[-1]})
        assert time.monotonic() - began < LEASE / 2
    assert (found["status"], found["value"]) == ("SUCCESSFUL", 42)
