"""``manage.py backjob_…`` and what Django's own commands say of the app."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from io import StringIO
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import CommandError, call_command
from django.test import override_settings

from backjob.django import jobs
from backjob.django.models import Job
from backjob.django.testing import immediate, recorded

pytestmark = pytest.mark.usefixtures("database")


def said(*arguments: str, **options: Any) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out, **options)
    return out.getvalue()


def test_list_shows_jobs_the_newest_first() -> None:
    with immediate():
        done = jobs.start("see", as_current_user=False, scope="a", owner="Bo")
    with recorded():
        waiting = jobs.start("see", as_current_user=False, scope="b")
    assert [line.split()[0] for line in said("backjob_list").splitlines()] == [waiting, done]
    for options in (["--scope", "a"], ["--owner", "Bo"], ["--status", "completed"]):
        assert [line.split()[0] for line in said("backjob_list", *options).splitlines()] == [done]
    assert len(said("backjob_list", "--limit", "1").splitlines()) == 1


@pytest.mark.parametrize("limit", ["0", "1001"])
def test_list_refuses_a_limit_that_is_none(limit: str) -> None:
    with pytest.raises(CommandError, match="limit"):
        said("backjob_list", "--limit", limit)


def test_cleanup_removes_what_is_past_its_age() -> None:
    with immediate():
        old, young = (jobs.start("see", as_current_user=False) for _ in range(2))
    Job.objects.filter(id=old).update(end_time=1)
    assert said("backjob_cleanup") == "removed 1 job\n"
    assert (jobs.exists(old), jobs.exists(young)) == (False, True)


@pytest.mark.parametrize("command", ["backjob_list", "backjob_cleanup", "backjob_monitor", "backjob_doctor"])
def test_a_refused_setting_is_an_error_of_the_command(command: str) -> None:
    given = {"BASE_URL": "http://127.0.0.1:9", "SEEL": True}
    with override_settings(BACKJOB=given), pytest.raises(CommandError, match="did you mean SEAL"):
        said(command)


@pytest.mark.parametrize("command", ["backjob_monitor", "backjob_doctor"])
def test_without_an_address_they_say_what_to_set(command: str) -> None:
    with pytest.raises(CommandError, match="BASE_URL"):
        said(command)


def test_monitor_ends_with_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr("backjob.django.management.commands.backjob_monitor.run_monitor", started.append)
    with override_settings(BACKJOB={"BASE_URL": "http://127.0.0.1:9"}):
        said("backjob_monitor")
        assert started == [jobs]


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - its own name
        """Nobody reads it."""


@pytest.fixture
def base_url() -> Iterator[str]:
    """The site on a real server, one request at a time."""
    with make_server("127.0.0.1", 0, WSGIHandler(), handler_class=_Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)


def test_doctor_finds_what_is_wrong_with_this_server(base_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with override_settings(BACKJOB={"BASE_URL": base_url}):
        out = StringIO()
        with pytest.raises(SystemExit) as exit_code:
            call_command("backjob_doctor", "--path", "/ready", "--method", "PUT", stdout=out)
    assert exit_code.value.code == 16  # wsgiref serves one request at a time
    lines = out.getvalue().splitlines()
    assert [line for line in lines if line.startswith("problem")] == [lines[-2]]
    assert "the application has the same key" in out.getvalue()
    assert lines[-1] == "ok: the store can be read"
    told = [record.message for record in caplog.records if record.message.startswith("this server serves one request")]
    assert len(told) == 1


def test_doctor_finds_nothing_where_nobody_listens() -> None:
    out = StringIO()
    with pytest.raises(SystemExit) as exit_code:
        call_command("backjob_doctor", "http://127.0.0.1:1", "--timeout", "2", stdout=out)
    assert exit_code.value.code == 10
    assert out.getvalue().startswith("problem: ")


def test_no_migration_is_missing() -> None:
    assert "No changes" in said("makemigrations", "backjob", check_changes=True, dry_run=True)


def test_the_sql_of_the_migrations_can_be_shown() -> None:
    assert "backjob_job" in said("sqlmigrate", "backjob", "0001")
