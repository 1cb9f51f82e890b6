"""The worker: which application it runs, and what it says about it."""

from __future__ import annotations

import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flask import Flask

from backjob import BackJob, Status
from backjob.cli.program import main
from backjob.cli.working import run_worker, transport_of
from backjob.errors import InvalidRequest, NotSent
from backjob.flask import BackJob as FlaskBackJob
from backjob.jobs import engine_of
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.transports.inprocess import InProcessTransport
from backjob.transports.sockets import SocketTransport
from backjob.wsgi import BackJobMiddleware
from tests.unit.core import KEY

PATIENCE = 60.0


def _work(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{environ['wsgi.url_scheme']}://{environ['HTTP_HOST']}{environ['SCRIPT_NAME']}".encode()]


async def _no_startup(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "lifespan.startup.failed", "message": "no database"})


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module with ``jobs`` and its ``app``, and ``bare`` and ``broken`` ones."""
    module: Any = ModuleType("shop_of_a_worker")
    module.jobs = BackJob(
        MemoryStore(), SocketTransport, MessageSigner(KEY), public_url="https://shop.example/shop", drain_time=5
    )
    module.app = BackJobMiddleware(_work, module.jobs)
    module.bare = _work
    module.broken = _no_startup
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@contextmanager
def working(jobs: BackJob, transport: InProcessTransport, *queues: str) -> Iterator[None]:
    stop = threading.Event()
    worker = threading.Thread(
        target=run_worker, args=(jobs, transport, frozenset(queues) or None), kwargs={"stop": stop}
    )
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join(PATIENCE)
        assert not worker.is_alive()


def test_a_worker_runs_jobs_and_drains(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with working(shop.jobs, transport_of(shop.jobs, "shop_of_a_worker:app", None, 3)):
        state = shop.jobs.join(_started_when_possible(shop.jobs), PATIENCE)
        assert (state.status, state.status_text) == (Status.COMPLETED, "https://shop.example/shop")
        while engine_of(shop.jobs).worker.is_busy:  # the end is written before the run gives its place back
            threading.Event().wait(0.01)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "backjob worker: runs jobs of all queues, 3 at once; Ctrl-C or SIGTERM stops it",
        "backjob worker: stops, and waits at most 5 s for 0 running jobs",
    ]


def _started_when_possible(jobs: BackJob) -> str:
    pause = threading.Event()
    for _ in range(1000):
        if jobs.transport is not None:
            return jobs.start("/work", as_current_user=False)
        pause.wait(0.01)
    raise AssertionError("the worker does not run")


def test_a_worker_runs_a_flask_application_that_it_finds_itself() -> None:
    app = Flask("shop")
    app.config.update(SECRET_KEY=secrets.token_hex(), BACKJOB_STORE="memory:", SERVER_NAME="shop.example")
    jobs = FlaskBackJob(app)
    app.add_url_rule("/work", "work", lambda: {"rows": 3})
    with app.app_context():
        transport = transport_of(jobs, None, None, 1)
    with working(jobs, transport), app.app_context():
        assert jobs.join(_started_when_possible(jobs), PATIENCE).result == {"rows": 3}


def test_an_application_without_the_middleware_is_noticed(shop: Any, caplog: pytest.LogCaptureFixture) -> None:
    with working(shop.jobs, transport_of(shop.jobs, "shop_of_a_worker:bare", None, 1)):
        while not caplog.records:
            threading.Event().wait(0.01)
    [record] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "does not answer a probe (200 OK)" in record.getMessage()


def test_a_worker_whose_application_does_not_start_up_ends(shop: Any) -> None:
    with pytest.raises(NotSent, match="the application's startup failed: no database"):
        run_worker(shop.jobs, transport_of(shop.jobs, None, "shop_of_a_worker:broken", 1), None)


def test_a_worker_needs_its_application(
    shop: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InvalidRequest, match="wsgi: pass --wsgi module:app or --asgi module:app"):
        transport_of(shop.jobs, None, None, 1)
    monkeypatch.setenv("BACKJOB_STORE", f"sqlite:///{tmp_path}/jobs.db")
    assert main(["worker"]) == 64
    assert main(["worker", "--app", "shop_of_a_worker:jobs", "--wsgi", "shop_of_a_worker:missing"]) == 64
    said = capsys.readouterr().err
    assert "app: pass --app module:jobs: a worker runs the application itself" in said
    assert "wsgi: " in said
    for wrong in (["--threads", "0"], ["--wsgi", "a:b", "--asgi", "a:b"]):
        with pytest.raises(SystemExit):
            main(["worker", "--app", "shop_of_a_worker:jobs", *wrong])
