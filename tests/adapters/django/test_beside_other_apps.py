"""The app in a project whose other apps use the same names for models, routes, admin pages, commands and labels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Final

import pytest

pytestmark = pytest.mark.slow

ROOT: Final = Path(__file__).resolve().parents[3]

SETTINGS: Final = """
    SECRET_KEY = "of this test alone: 8d1f06c2b97ae354"
    ROOT_URLCONF = "urls"
    ALLOWED_HOSTS = ["testserver"]
    USE_TZ = True
    INSTALLED_APPS = [
        "django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.messages",
        "django.contrib.sessions", "shop.backjob", "backjob.django", "shop.jobs",
    ]
    MIDDLEWARE = [
        "backjob.django.middleware.BackJobMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ]
    TEMPLATES = [{
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": [
            "django.template.context_processors.request",
            "django.contrib.auth.context_processors.auth",
            "django.contrib.messages.context_processors.messages",
        ]},
    }]
    DATABASES = {"default": {
        "ENGINE": "django.db.backends.sqlite3", "NAME": "site.db",
        "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL"},
    }}
    DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
"""
URLS: Final = """
    from django.contrib import admin
    from django.http import HttpResponse
    from django.urls import include, path

    def work(request, pk=None):
        print("worked")
        return HttpResponse()

    theirs = ([path("<int:pk>", work, name="status")], "jobs")
    urlpatterns = [
        path("admin/", admin.site.urls),
        path("status", work, name="status"),
        path("jobs/", include(theirs)),
        path("backjob/", include("backjob.django.urls")),
    ]
"""
MODELS: Final = """
    from django.contrib import admin
    from django.db import models

    class Job(models.Model):
        name = models.CharField(max_length=20)

    class Output(models.Model):
        job = models.ForeignKey(Job, models.CASCADE)

    admin.site.register(Job)
"""
USE: Final = """
    import django

    django.setup()
    from django.apps import apps
    from django.core.management import call_command
    from django.test import Client
    from django.test.utils import setup_test_environment
    from django.contrib.auth.models import User

    call_command("makemigrations", "jobs", "shop_backjob", verbosity=0)
    call_command("makemigrations", check_changes=True, dry_run=True, verbosity=0)
    call_command("check", fail_level="WARNING")
    call_command("migrate", verbosity=0)

    from backjob.django import jobs
    from backjob.django.testing import immediate

    setup_test_environment()
    with immediate():
        for view in ("status", "/jobs/7"):
            state = jobs.status(jobs.start(view, as_current_user=False))
            assert (state.status_text, state.progress) == ("worked\\n", 100), state
    for label in ("jobs", "shop_backjob"):
        job = apps.get_model(label, "Job").objects.create(name="theirs")
        apps.get_model(label, "Output").objects.create(job=job)
    client = Client()
    client.force_login(User.objects.create(username="Al", is_staff=True, is_superuser=True))
    for page in ("", "backjob/job/", "jobs/job/", "shop_backjob/job/"):
        assert client.get(f"/admin/{page}").status_code == 200, page
    call_command("migrate", "backjob", "zero", verbosity=0)
    assert apps.get_model("jobs", "Job").objects.count() == 1
"""


def project(directory: Path, label: str) -> subprocess.CompletedProcess[str]:
    """Use a project with two other apps, one of them in a package named backjob with this label."""
    for name in ("jobs", "backjob"):
        app = directory / "shop" / name
        (app / "migrations").mkdir(parents=True)
        (app / "__init__.py").touch()
        (app / "migrations" / "__init__.py").touch()
        (app / "models.py").write_text(dedent(MODELS))
    (directory / "shop" / "__init__.py").touch()
    (directory / "shop" / "backjob" / "apps.py").write_text(
        f"from django.apps import AppConfig\n\n\nclass Ours(AppConfig):\n    name = 'shop.backjob'\n    label = {label!r}\n"
    )
    for file, text in (("settings.py", SETTINGS), ("urls.py", URLS), ("use.py", USE)):
        (directory / file).write_text(dedent(text))
    return subprocess.run(
        [sys.executable, "use.py"],
        cwd=directory,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_other_apps_may_use_the_same_names(tmp_path: Path) -> None:
    done = project(tmp_path, "shop_backjob")
    assert done.returncode == 0, done.stdout + done.stderr


def test_django_reports_two_apps_with_one_label(tmp_path: Path) -> None:
    done = project(tmp_path, "backjob")
    assert "Application labels aren't unique, duplicates: backjob" in done.stderr
