"""A mistake in the configuration: pages without jobs work, `start()` raises the error, status routes answer 503."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from backjob import BackJobError, InvalidRequest, StoreUnavailable
from backjob.flask import BackJob
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.testing import recorded
from tests.unit.gateways import environ_of

MakeApp = Callable[..., Flask]

MISTAKES: Any = [
    ({"SECRET_KEY": "dev"}, "SECRET_KEY: is too short"),
    ({"SECRET_KEY": None}, "SECRET_KEY: is not set"),
    ({"BACKJOB_KEY": "dev"}, "too short"),
    ({"BACKJOB_TABLE_NAME": "no name; --"}, "table_name"),
    ({"BACKJOB_STORE": "cache:"}, "CACHE"),
    ({"BACKJOB_STORE": "nonsense:"}, "nonsense"),
    ({"BACKJOB_STORE": "sqlite:////dev/null/jobs.db"}, "/dev/null"),
    ({"BACKJOB_ERROR_TIMEOUT": "soon"}, "BACKJOB_ERROR_TIMEOUT"),
    ({"BACKJOB_MAX_BODY": -1}, "BACKJOB_MAX_BODY"),
    ({"BACKJOB_STATUS_PREFIX": "no-slash/"}, "status_prefix"),
    ({"BACKJOB_STATUS_PREFIX": 5}, "BACKJOB_STATUS_PREFIX"),
    ({"BACKJOB_CONNECT_TO": "127.0.0.1:1"}, "CONNECT_TO"),
    ({"BACKJOB_CACHE": "no_such_module:cache"}, "no_such_module"),
]


def site(make_app: MakeApp, **config: Any) -> tuple[Flask, BackJob]:
    app = make_app(**config)
    jobs = BackJob(app)
    app.add_url_rule("/health", "health", lambda: "fine")
    app.add_url_rule("/export", "export", lambda: jobs.start("/work", as_current_user=False))
    app.add_url_rule("/work", "work", jobs.background_only(lambda: "worked"))
    return app, jobs


@pytest.mark.parametrize(("config", "said"), MISTAKES, ids=[str(config) for config, _ in MISTAKES])
def test_a_mistake_is_logged_once_and_fails_only_what_needs_jobs(
    make_app: MakeApp, config: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    app, jobs = site(make_app, **config)
    client = app.test_client()
    for _ in range(3):
        assert client.get("/health").text == "fine"
    with app.test_request_context(), pytest.raises(BackJobError, match=said):
        jobs.start("/work")
    assert client.get("/export").status_code == 500
    assert client.get("/work").status_code == 403
    response = client.get("/backjob/unknown")
    assert (response.status_code, response.json) == (
        503,
        {"error": "background jobs are not configured; see the log"},
    )
    page = client.get("/backjob/unknown", headers={"Accept": "text/html"})
    assert (page.status_code, page.mimetype) == (503, "text/html")
    assert "KEY" not in page.text
    logged = [record for record in caplog.records if record.name == "backjob"]
    assert [record.levelname for record in logged] == ["ERROR"]
    assert said in logged[0].getMessage()


def test_a_setting_that_becomes_unknown_after_init_app_is_a_mistake_too(make_app: MakeApp) -> None:
    app, jobs = site(make_app)
    app.config["BACKJOB_STROE"] = "memory:"
    assert app.test_client().get("/health").text == "fine"
    with pytest.raises(InvalidRequest, match="did you mean BACKJOB_STORE"):
        jobs.find()


def test_an_instance_folder_that_becomes_writable_is_used_without_a_restart(
    make_app: MakeApp, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "shop").touch()
    app, jobs = site(make_app)
    assert app.test_client().get("/health").text == "fine"
    (tmp_path / "shop").unlink()
    assert jobs.find() == []
    assert "work again" in caplog.text


def test_a_missing_cryptography_fails_only_what_needs_jobs(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    importing = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return importing(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    app, jobs = site(make_app, BACKJOB_SEAL=True)
    assert app.test_client().get("/health").text == "fine"
    with pytest.raises(BackJobError, match=r"backjob\[sealed\]"):
        jobs.find()


def test_a_database_that_is_down_fails_only_what_needs_jobs(make_app: MakeApp) -> None:
    app, jobs = site(
        make_app, BACKJOB_STORE="postgresql://nobody@127.0.0.1:9/none", BACKJOB_BASE_URL="http://127.0.0.1:9"
    )
    client = app.test_client()
    assert client.get("/health").text == "fine"
    with pytest.raises(StoreUnavailable):
        jobs.start("/work", as_current_user=False)
    with app.app_context():
        assert client.get(jobs.status_url("job")).status_code == 503


def test_a_worker_request_waits_for_a_process_that_is_configured(make_app: MakeApp) -> None:
    other, jobs = site(make_app, BACKJOB_STORE="memory:")
    with recorded(jobs) as started, other.test_request_context():
        jobs.start("/work", as_current_user=False)
    signer = other.extensions["backjob"].engine.signer
    from backjob.model import Grant

    request = signer.sign(started[0].request, Grant(started[0].job_id, 1, 1, 1_000, 2_000))
    app, _ = site(make_app, SECRET_KEY="dev")
    response = app.test_client().get(request.target)
    assert (response.status_code, response.headers["backjob-refusal"]) == (503, "unavailable")


def test_in_debug_mode_a_weak_secret_is_accepted_with_one_warning(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app, jobs = site(make_app, SECRET_KEY="dev", BACKJOB_STORE="memory:", DEBUG=True)
    for _ in range(2):
        assert app.test_client().get("/health").text == "fine"
    with recorded(jobs), app.test_request_context():
        job_id = jobs.start("/work")
        url = jobs.status_url(job_id)
    assert app.test_client().get(url).status_code == 200
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert ["SECRET_KEY" in record.getMessage() for record in warnings] == [True]
    assert "ERROR" not in {record.levelname for record in caplog.records}


def test_in_debug_mode_a_missing_secret_is_still_an_error(make_app: MakeApp) -> None:
    app, jobs = site(make_app, SECRET_KEY="", DEBUG=True)
    assert app.test_client().get("/health").text == "fine"
    with pytest.raises(InvalidRequest, match="SECRET_KEY: is not set"):
        jobs.find()


def test_a_store_that_was_opened_is_closed_if_another_setting_is_wrong(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[object] = []
    monkeypatch.setattr(MemoryStore, "close", lambda store: closed.append(store))  # noqa: PLW0108 - a method gets the store
    app, _ = site(make_app, BACKJOB_STORE="memory:", BACKJOB_STATUS_PREFIX="/jobs/")
    assert app.test_client().get("/health").text == "fine"
    assert len(closed) == 1


# --- ordinary requests ------------------------------------------------------------------------------------------------


def test_a_page_works_though_no_thread_can_be_started(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_more(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    app, jobs = site(make_app, BACKJOB_STORE="memory:", BACKJOB_BASE_URL="http://127.0.0.1:9")
    jobs.find()
    monkeypatch.setattr("threading.Thread.start", no_more)
    lines: list[str] = []
    for path in ("/health", "/health", "/export"):  # a test client would be no reason to start a thread
        list(app(environ_of(path), lambda line, _headers, *_: lines.append(line)))  # type: ignore[arg-type]
    assert lines == ["200 OK"] * 3
    # One line for each: the monitor's thread, and the one that renews leases.
    assert caplog.text.count("can't start new thread") == 2


def test_a_page_works_though_the_signer_is_broken(make_app: MakeApp) -> None:
    class Broken(MessageSigner):
        def claims(self, request: Any) -> bool:
            raise RuntimeError("broken")

    app = make_app()
    BackJob(app, store=MemoryStore(), signer=Broken("Hq7vX2mZ9tB4kW8rN1cJ6yL3pD5sF0gA"))
    app.add_url_rule("/health", "health", lambda: "fine")
    assert app.test_client().get("/health").text == "fine"


@pytest.mark.parametrize("odd", [{"PATH_INFO": "/h\u03a9"}, {"QUERY_STRING": None}, {"HTTP_X": 5}])
def test_an_odd_environ_reaches_the_application_as_it_is(make_app: MakeApp, odd: dict[str, Any]) -> None:
    from backjob.wsgi import BackJobMiddleware

    seen: list[Any] = []

    def application(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(environ)
        start_response("200 OK", [])
        return [b"fine"]

    jobs = BackJob(make_app(), store=MemoryStore())
    environ = environ_of(**odd)
    assert list(BackJobMiddleware(application, jobs)(environ, lambda *_: None)) == [b"fine"]  # type: ignore[arg-type]
    assert seen[0] is environ
