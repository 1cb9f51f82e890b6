"""The settings of the tests' Django project. It lists the database servers whether they run or not."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import django
import pymysql

from tests.services import MARIADB, POSTGRES, own_name

pymysql.install_as_MySQLdb()
_NAME = own_name()
_DIRECTORY = Path(tempfile.mkdtemp(prefix=_NAME))


def _server(engine: str, url: str, **options: Any) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "ENGINE": engine,
        "HOST": parts.hostname,
        "PORT": str(parts.port or ""),
        "USER": parts.username or "",
        "PASSWORD": parts.password or "",
        "NAME": parts.path.lstrip("/"),
        "TEST": {"NAME": _NAME},
        **options,
    }


SECRET_KEY = "of the tests alone: 3f6a0b9d52c84e17"
ALLOWED_HOSTS = ["testserver", "127.0.0.1", "shop.example"]
ROOT_URLCONF = "tests.adapters.django.urls"
USE_TZ = True
LOGGING_CONFIG = None
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "backjob.django",
]
if django.VERSION < (6,):
    INSTALLED_APPS.append("django_tasks")
TASKS = {
    "default": {
        "BACKEND": "backjob.django.backend.BackJobBackend",
        "QUEUES": ["default", "nightly"],
        "OPTIONS": {"error_timeout": 45},
    },
    "any": {"BACKEND": "backjob.django.backend.BackJobBackend", "QUEUES": []},
}
MIDDLEWARE = [
    "backjob.django.middleware.BackJobMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SITE_DATABASE") or str(_DIRECTORY / "site.db"),
        "TEST": {"NAME": str(_DIRECTORY / "test.db")},
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    },
    "postgresql": _server("django.db.backends.postgresql", POSTGRES.url),
    "mariadb": _server(
        "django.db.backends.mysql",
        MARIADB.url,
        OPTIONS={"charset": "utf8mb4", "ssl_disabled": "ssl_disabled" in MARIADB.url},
    ),
}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"
STATIC_URL = "/static/"
BACKJOB = {
    name: os.environ[f"BACKJOB_{name}"]
    for name in ("BASE_URL", "CONNECT_TO", "OPENTELEMETRY")
    if f"BACKJOB_{name}" in os.environ
}
# A site that is served in a process of its own is set up by its test.
globals().update(json.loads(os.environ.get("SITE_SETTINGS", "{}")))
