"""The settings of a Django site whose tasks are in its database."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Final
from urllib.parse import urlsplit

_store: Final = os.environ["PEER_STORE"]
_url: Final = urlsplit(_store)

SECRET_KEY: Final = "for benchmarks only, 9f81c07ae254b6"
USE_TZ: Final = True
INSTALLED_APPS: Final = [*([] if find_spec("django.tasks") else ["django_tasks"]), "django_tasks_db"]
TASKS: Final = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend", "QUEUES": ["default"]}}
DATABASES: Final = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": _store.removeprefix("sqlite:///"),
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }
    if _store.startswith("sqlite")
    else {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": _url.hostname,
        "PORT": _url.port,
        "USER": _url.username,
        "NAME": _url.path[1:],
        "CONN_MAX_AGE": None,
    }
}
LOGGING: Final = {"version": 1, "loggers": {"django_tasks": {"level": "ERROR"}, "django.tasks": {"level": "ERROR"}}}
