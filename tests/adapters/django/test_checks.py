"""``manage.py check`` reports each fault, and nothing else."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from django.conf import settings
from django.contrib.sessions.backends import signed_cookies
from django.core.checks import run_checks
from django.test import override_settings
from django_prometheus.middleware import PrometheusBeforeMiddleware
from opentelemetry.instrumentation.django.middleware.otel_middleware import _DjangoMiddleware

from backjob.django.checks import SQLITE_OPTIONS

pytestmark = pytest.mark.usefixtures("database")

INSECURE = "django-insecure-k3&v9@x!q0m#w7z$r2t^u5y*p8(b1)n6_h4=f+d%j-s2g0"
OURS = "backjob.django.middleware.BackJobMiddleware"
OTEL = f"{_DjangoMiddleware.__module__}.{_DjangoMiddleware.__qualname__}"
PROMETHEUS = f"{PrometheusBeforeMiddleware.__module__}.{PrometheusBeforeMiddleware.__qualname__}"
DUMMY = "django.core.cache.backends.dummy.DummyCache"
SHARED = {"default": {"BACKEND": "django.core.cache.backends.filebased.FileBasedCache", "LOCATION": "/nowhere"}}


class SessionStore(signed_cookies.SessionStore):
    """The site's subclass of an engine."""


def found() -> list[str]:
    """The ids of the messages. Each must have a text and a hint."""
    messages = [message for message in run_checks(tags=["backjob"]) if not message.is_silenced()]
    assert all(message.msg and message.hint for message in messages)
    return [str(message.id) for message in messages]


def test_the_tests_own_project_passes_all_checks() -> None:
    assert found() == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"MIDDLEWARE": [one for one in settings.MIDDLEWARE if one != OURS]}, "backjob.E001"),
        ({"MIDDLEWARE": [*settings.MIDDLEWARE[1:], OURS]}, "backjob.W002"),
        ({"MIDDLEWARE": [OTEL, *settings.MIDDLEWARE[1:], OURS]}, "backjob.W002"),
        ({"BACKJOB": {"SEEL": 1}}, "backjob.E003"),
        ({"BACKJOB": []}, "backjob.E003"),
        ({"BACKJOB": {"BASE_URL": "http://[::1"}}, "backjob.E003"),
        ({"BACKJOB": {"STORE": "sqlite:////nowhere/at/all/jobs.db"}}, "backjob.E004"),
        ({"SECRET_KEY": INSECURE[:40]}, "backjob.E003"),
        ({"SECRET_KEY": INSECURE}, "backjob.W006"),
        ({"BACKJOB": {"TABLE_NAME": "jobs"}}, "backjob.W009"),
        ({"BACKJOB": {"DELIVER": ["default"]}}, "backjob.I012"),
        ({"BACKJOB": {"CREATE_TABLE": False}}, "backjob.W009"),
        ({"SECRET_KEY_FALLBACKS": ["weak"]}, "backjob.W005"),
        ({"BACKJOB": {"BASE_URL": "http://elsewhere.example"}}, "backjob.E011"),
        ({"BACKJOB": {"CACHE": "default"}}, "backjob.W007"),
        ({"BACKJOB": {"CACHE": "default"}, "CACHES": {"default": {"BACKEND": DUMMY}}}, "backjob.W007"),
        ({"SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies"}, "backjob.W030"),
        ({"SESSION_ENGINE": "tests.adapters.django.test_checks"}, "backjob.W030"),
        ({"SESSION_ENGINE": "django.contrib.sessions.backends.cache"}, "backjob.W031"),
        ({"SESSION_ENGINE": "django.contrib.sessions.backends.cached_db"}, "backjob.W031"),
    ],
)
def test_a_wrong_setting_is_reported(given: dict[str, Any], expected: str) -> None:
    with override_settings(**given):
        assert found() == [expected]


@pytest.mark.parametrize(
    "given",
    [
        {"MIDDLEWARE": [PROMETHEUS, OTEL, *settings.MIDDLEWARE]},
        {"MIDDLEWARE": [*settings.MIDDLEWARE[1:], OURS], "SILENCED_SYSTEM_CHECKS": ["backjob.W002"]},
        {"SECRET_KEY": INSECURE, "DEBUG": True},
        {"SECRET_KEY": INSECURE, "BACKJOB": {"KEY": "a secret of its own, 8c2f41d705ae"}},
        {"SECRET_KEY_FALLBACKS": ["an older one, a6f1c09e7d3b58c240"]},
        {"BACKJOB": {"BASE_URL": "http://shop.example:8000/mount"}},
        {"BACKJOB": {"BASE_URL": "http://[::1]:8000"}, "ALLOWED_HOSTS": ["[::1]"]},
        {"BACKJOB": {"BASE_URL": "http://localhost:8000"}, "ALLOWED_HOSTS": [], "DEBUG": True},
        {"SESSION_ENGINE": "django.contrib.sessions.backends.cached_db", "DEBUG": True},
        {"SESSION_ENGINE": "django.contrib.sessions.backends.cached_db", "CACHES": SHARED},
        {"SESSION_ENGINE": "django.contrib.sessions.backends.file", "SESSION_SAVE_EVERY_REQUEST": True},
        {"BACKJOB": {"CACHE": "default"}, "CACHES": SHARED},
        {"BACKJOB": {"CACHE": "default"}, "DEBUG": True},
        {"BACKJOB": {"DELIVER": [], "SEAL": True}},
        {
            "SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies",
            "INSTALLED_APPS": [app for app in settings.INSTALLED_APPS if app != "django.contrib.sessions"],
        },
    ],
)
def test_a_correct_setting_is_not_reported(given: dict[str, Any]) -> None:
    with override_settings(**given):
        assert found() == []


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["manage.py", "runserver", "--nothreading"], ["backjob.W020"]),
        (["manage.py", "runserver"], []),
        (["/usr/bin/gunicorn", "site.wsgi"], ["backjob.W021"]),
        (["gunicorn", "--workers=1", "site.wsgi"], ["backjob.W021"]),
        (["gunicorn", "--threads", "4", "site.wsgi"], []),
        (["gunicorn", "-w", "2", "site.wsgi"], []),
        (["gunicorn", "-k", "gthread", "--threads=8", "site.wsgi"], []),
        (["gunicorn", "-k", "uvicorn_worker.UvicornWorker", "site.asgi"], []),
        (["gunicorn", "-b", "unix:/run/site.sock", "-w", "2", "site.wsgi"], ["backjob.E010"]),
        (["gunicorn", "--bind=unix:/run/site.sock", "-w", "2", "site.wsgi"], ["backjob.E010"]),
        (["gunicorn", "--bind=127.0.0.1:8000", "-w", "2", "site.wsgi"], []),
    ],
)
def test_a_server_that_serves_one_request_at_a_time_is_reported(
    monkeypatch: pytest.MonkeyPatch, command: list[str], expected: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    monkeypatch.delenv("GUNICORN_CMD_ARGS", raising=False)
    assert found() == expected


def test_a_process_that_delivers_nothing_needs_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gunicorn", "-b", "unix:/run/site.sock", "-w", "2", "site.wsgi"])
    monkeypatch.delenv("GUNICORN_CMD_ARGS", raising=False)
    with override_settings(BACKJOB={**getattr(settings, "BACKJOB", {}), "DELIVER": [], "SEAL": True}):
        assert found() == []


@pytest.mark.parametrize(
    ("given", "command", "expected"),
    [
        ("--bind=unix:/run/site.sock --workers 2", ["manage.py", "check"], ["backjob.E010"]),
        ("--workers 1", ["manage.py", "check"], ["backjob.W021"]),
        ("--threads 4", ["manage.py", "check"], []),
        ("--workers 1", ["gunicorn", "--workers", "2", "site.wsgi"], []),
        ("--bind=127.0.0.1:8000 --workers 4", ["gunicorn", "--workers", "1", "site.wsgi"], ["backjob.W021"]),
    ],
)
def test_gunicorns_options_in_the_environment_count_before_it_runs(
    monkeypatch: pytest.MonkeyPatch, given: str, command: list[str], expected: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setenv("GUNICORN_CMD_ARGS", given)
    assert found() == expected


def test_the_number_of_workers_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gunicorn", "site.wsgi"])
    monkeypatch.setenv("WEB_CONCURRENCY", "3")
    assert found() == []


def test_a_unix_socket_with_connect_to_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gunicorn", "-b", "unix:/run/site.sock", "-w", "2"])
    with override_settings(BACKJOB={"BASE_URL": "http://shop.example", "CONNECT_TO": "unix:/run/site.sock"}):
        assert found() == []


SQLITE = {"ENGINE": "django.db.backends.sqlite3", "NAME": "site.db"}
TURNS = {**SQLITE, "OPTIONS": {**SQLITE_OPTIONS}}
POSTGRESQL = {"ENGINE": "django.db.backends.postgresql"}


@pytest.mark.parametrize(
    ("databases", "given", "expected"),
    [
        ({"default": SQLITE}, {}, ["backjob.W041"]),
        ({"default": TURNS}, {}, []),
        ({"default": {**TURNS, "ATOMIC_REQUESTS": True}}, {}, ["backjob.W040"]),
        ({"default": {**SQLITE, "ATOMIC_REQUESTS": True}}, {}, ["backjob.W041", "backjob.W040"]),
        ({"default": POSTGRESQL}, {}, []),
        ({"default": {**POSTGRESQL, "ATOMIC_REQUESTS": True}}, {}, []),
        ({"default": POSTGRESQL, "jobs": SQLITE}, {}, []),
        ({"default": POSTGRESQL, "jobs": SQLITE}, {"DATABASE": "jobs"}, ["backjob.W041"]),
        ({"default": SQLITE, "jobs": TURNS}, {"DATABASE": "jobs"}, []),
        ({"default": SQLITE}, {"STORE": "memory:"}, []),
        ({"default": {**SQLITE, "OPTIONS": {**SQLITE_OPTIONS, "transaction_mode": "DEFERRED"}}}, {}, ["backjob.W041"]),
        ({"default": {**SQLITE, "OPTIONS": {**SQLITE_OPTIONS, "init_command": ""}}}, {}, ["backjob.W041"]),
        ({"default": {**SQLITE, "OPTIONS": {**SQLITE_OPTIONS, "timeout": 1}}}, {}, ["backjob.W041"]),
        ({"default": {**TURNS, "OPTIONS": {"transaction_mode": "immediate", "init_command": "pragma journal_mode = wal"}}},
         {}, []),
    ],
)  # fmt: skip
def test_sqlite_whose_writers_do_not_take_turns_is_reported(
    monkeypatch: pytest.MonkeyPatch, databases: dict[str, Any], given: dict[str, Any], expected: list[str]
) -> None:
    monkeypatch.setattr(settings, "DATABASES", databases)
    with override_settings(BACKJOB=given):
        assert [one for one in found() if one.startswith("backjob.W04")] == expected


def test_the_warning_about_atomic_requests_says_how_to_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "DATABASES", {"default": {**TURNS, "ATOMIC_REQUESTS": True}})
    [warning] = [one for one in run_checks(tags=["backjob"]) if one.id == "backjob.W040"]
    assert "add 'backjob.W040' to SILENCED_SYSTEM_CHECKS" in (warning.hint or "")
