"""``manage.py backjob …`` passes its arguments to `backjob.cli`; Django's own commands work with the app."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import CommandError, call_command
from django.test import override_settings

from backjob.cli.program import COMMANDS
from backjob.django import jobs
from backjob.django.management.commands.backjob import Command
from backjob.django.models import Job
from backjob.django.testing import immediate, recorded

pytestmark = pytest.mark.usefixtures("database")

Out = pytest.CaptureFixture[str]


def output_of(*arguments: str, **options: Any) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out, **options)
    return out.getvalue()


def manage(*arguments: str) -> int:
    """Run ``manage.py backjob …``; return its exit code."""
    with pytest.raises(SystemExit) as exited:
        Command().run_from_argv(["manage.py", "backjob", *arguments])
    assert isinstance(exited.value.code, int)
    return exited.value.code


def test_list_prints_the_jobs_of_the_site() -> None:
    with immediate():
        done = jobs.start("see", as_current_user=False, scope="a", owner="Bo")
    with recorded():
        waiting = jobs.start("see", as_current_user=False, scope="b")
    assert output_of("backjob", "list", "--quiet").splitlines() == [waiting, done]
    for options in (["--scope", "a"], ["--owner", "Bo"], ["--status", "completed"], ["--before", waiting]):
        [found] = output_of("backjob", "list", *options, "--json").splitlines()
        assert json.loads(found)["id"] == done


def test_show_watch_and_cancel_work_on_the_jobs_of_the_site(capsys: Out) -> None:
    with recorded():
        waiting = jobs.start("see", as_current_user=False)
    assert manage("cancel", waiting) == 0
    assert manage("cancel", waiting) == 4
    assert manage("watch", waiting) == 2
    assert manage("show", "--json", waiting) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out.splitlines()[-1])["status_name"] == "CANCELLED"
    assert printed.err == f"manage.py backjob: {waiting} had already ended: Cancelled\n"


def test_cleanup_removes_jobs_past_their_retention_age() -> None:
    with immediate():
        old, young = (jobs.start("see", as_current_user=False) for _ in range(2))
    Job.objects.filter(id=old).update(end_time=1)
    assert output_of("backjob", "cleanup") == "removed 1 job\n"
    assert (jobs.exists(old), jobs.exists(young)) == (False, True)


def test_an_error_exits_with_its_code(capsys: Out) -> None:
    assert manage("show", "unknown") == 3
    assert capsys.readouterr().err.startswith("manage.py backjob: no job has the id 'unknown'")
    assert manage("list", "--limit", "0") == 64
    assert "limit" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [(), ("unknown",), ("list", "--unknown"), ("demo",), ("list", "--app", "a:b")])
def test_wrong_usage_exits_with_64(arguments: tuple[str, ...], capsys: Out) -> None:
    assert manage(*arguments) == 64
    assert "usage: manage.py backjob" in capsys.readouterr().err


def test_call_command_raises_command_error() -> None:
    with pytest.raises(CommandError, match="no job has the id 'unknown'"):
        call_command("backjob", "show", "unknown")
    with recorded():
        waiting = jobs.start("see", as_current_user=False)
    jobs.cancel(waiting)
    with pytest.raises(CommandError) as raised:
        output_of("backjob", "watch", waiting)
    assert raised.value.returncode == 2


def test_help_lists_the_commands_and_their_options(capsys: Out) -> None:
    assert manage("--help") == 0
    top = capsys.readouterr().out
    assert all(f"    {name} " in top for name in COMMANDS)
    assert manage("list", "--help") == 0
    assert "usage: manage.py backjob list" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        Command().print_help("manage.py", "backjob")
    assert capsys.readouterr().out == top


@pytest.mark.parametrize("name", ["list", "cleanup", "monitor", "doctor"])
def test_a_refused_setting_is_an_error(name: str) -> None:
    given = {"BASE_URL": "http://127.0.0.1:9", "SEEL": True}
    with override_settings(BACKJOB=given), pytest.raises(CommandError, match="did you mean SEAL"):
        call_command("backjob", name)


@pytest.mark.parametrize("name", ["monitor", "doctor"])
def test_without_a_base_url_the_error_names_the_setting(name: str) -> None:
    with pytest.raises(CommandError, match="BASE_URL"):
        call_command("backjob", name)


def test_monitor_runs_with_the_jobs_of_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr("backjob.cli.commands.run_monitor", started.append)
    with override_settings(BACKJOB={"BASE_URL": "http://127.0.0.1:9"}):
        call_command("backjob", "monitor")
    assert started == [jobs]


@pytest.mark.slow
def test_djangos_settings_option_may_come_anywhere(tmp_path: Path) -> None:
    (tmp_path / "the_settings.py").write_text(
        "SECRET_KEY = 'Hq7vX2mZ9tB4kW8rN1cJ6yL3pD5sF0gA'\n"
        "INSTALLED_APPS = ['backjob.django']\n"
        "MIDDLEWARE = []\n"
        "ROOT_URLCONF = 'the_settings'\n"
        "BACKJOB = {'STORE': 'sqlite:///jobs.db'}\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    for arguments in (["--settings", "the_settings", "list"], ["list", "--json", "--settings=the_settings"]):
        done = subprocess.run(
            [sys.executable, "-m", "django", "backjob", *arguments],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": f"{Path(__file__).parents[3]}:{tmp_path}"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (
            0,
            "",
            "" if "--json" in arguments else "There are no jobs yet.\n",
        )


@pytest.mark.slow
def test_the_program_backjob_opens_the_jobs_of_a_site(tmp_path: Path) -> None:
    (tmp_path / "the_settings.py").write_text(
        "SECRET_KEY = 'Hq7vX2mZ9tB4kW8rN1cJ6yL3pD5sF0gA'\n"
        "INSTALLED_APPS = ['backjob.django']\n"
        "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': 'db.sqlite3'}}\n"
        "MIDDLEWARE = ['backjob.django.middleware.BackJobMiddleware']\n"
        "ROOT_URLCONF = 'the_settings'\n"
        "urlpatterns = []\n"
        "SILENCED_SYSTEM_CHECKS = ['backjob.W041']\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    environment["PYTHONPATH"] = f"{Path(__file__).parents[3]}:{tmp_path}"

    def run(*arguments: str, **given: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=tmp_path,
            env={**environment, **given},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    listing = ("backjob", "list", "--app", "backjob.django:jobs")
    assert run("django", "migrate", "-v0", "--settings", "the_settings") == (0, "", "")
    assert run(*listing, DJANGO_SETTINGS_MODULE="the_settings") == (0, "", "There are no jobs yet.\n")
    code, _, error = run(*listing)
    assert code == 64
    assert error.startswith(
        "backjob: app: set DJANGO_SETTINGS_MODULE to your settings, or run: python manage.py backjob"
    )


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base class's name
        """Log nothing."""


@pytest.fixture
def base_url() -> Iterator[str]:
    """The site on a real server that handles one request at a time."""
    with make_server("127.0.0.1", 0, WSGIHandler(), handler_class=_Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)


def test_doctor_finds_that_this_server_handles_one_request_at_a_time(
    base_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    out = StringIO()
    with override_settings(BACKJOB={"BASE_URL": base_url}), pytest.raises(CommandError) as raised:
        call_command("backjob", "doctor", "--path", "/ready", "--method", "PUT", stdout=out)
    assert raised.value.returncode == 16
    lines = out.getvalue().splitlines()
    assert [line for line in lines if line.startswith("problem")] == [lines[-2]]
    assert "the application has the same key" in out.getvalue()
    assert lines[-1] == "ok: the store can be read"
    warnings = [one.message for one in caplog.records if one.message.startswith("this server serves one request")]
    assert len(warnings) == 1


def test_doctor_reports_a_refused_connection(capsys: Out) -> None:
    assert manage("doctor", "http://127.0.0.1:1", "--timeout", "2") == 10
    assert capsys.readouterr().out.startswith("problem: ")


def test_no_migration_is_missing() -> None:
    assert "No changes" in output_of("makemigrations", "backjob", check_changes=True, dry_run=True)


def test_the_sql_of_the_migrations_can_be_shown() -> None:
    assert "backjob_job" in output_of("sqlmigrate", "backjob", "0001")
