"""``manage.py test`` on PostgreSQL, which refuses to drop a database while any thread has a connection to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from tests.services import POSTGRES, own_name

pytestmark = [pytest.mark.slow, pytest.mark.services]

ROOT: Final = Path(__file__).resolve().parents[3]

SETTINGS: Final = """
SECRET_KEY = "of the tests alone: 3f6a0b9d52c84e17"
INSTALLED_APPS = ["backjob.django"]
MIDDLEWARE = ["backjob.django.middleware.BackJobMiddleware"]
ROOT_URLCONF = "urls"
STATIC_URL = "/static/"
ALLOWED_HOSTS = ["*"]
DATABASES = {{
    "default": {{
        "ENGINE": "django.db.backends.postgresql", "HOST": {host!r}, "PORT": {port!r}, "USER": {user!r},
        "PASSWORD": {password!r}, "NAME": {name!r}, "CONN_MAX_AGE": 600, "TEST": {{"NAME": {test!r}}},
    }}
}}
"""

URLS: Final = """
from django.http import HttpResponse
from django.urls import include, path

urlpatterns = [
    path("", lambda request: HttpResponse("home")),
    path("backjob/", include("backjob.django.urls")),
]
"""

TESTS: Final = """
import asyncio
import urllib.request

from django.test import AsyncClient, Client, LiveServerTestCase, TestCase, TransactionTestCase
from backjob.django import jobs


class Pages(TestCase):
    def test_a_page(self):
        self.assertEqual(self.client.get("/").content, b"home")

    async def test_a_page_by_asgi(self):
        self.assertEqual((await self.async_client.get("/")).content, b"home")


class Committed(TransactionTestCase):
    def test_a_page_and_a_status(self):
        self.assertEqual(self.client.get("/").content, b"home")
        self.assertEqual(self.client.get("/backjob/unknown").status_code, 404)
        self.assertEqual(jobs.find(), [])


class Live(LiveServerTestCase):
    def test_a_page_of_a_server(self):
        self.assertEqual(urllib.request.urlopen(self.live_server_url + "/").read(), b"home")
"""


@pytest.mark.parametrize("cases", ["Pages", "Committed", "Live"])
def test_the_test_database_can_be_dropped(cases: str, tmp_path: Path) -> None:
    url = urlsplit(POSTGRES.require())
    settings = SETTINGS.format(
        host=url.hostname,
        port=str(url.port or ""),
        user=url.username or "",
        password=url.password or "",
        name=url.path.lstrip("/"),
        test=own_name(),
    )
    for name, text in (("settings", settings), ("urls", URLS), ("tests", TESTS)):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "django", "test", f"tests.{cases}", "--noinput"],
        cwd=tmp_path,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "OK" in ran.stderr
