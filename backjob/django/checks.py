"""What ``manage.py check`` says of the site's background jobs: each finding has an id and a hint."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.sessions.backends import cache, cached_db, signed_cookies
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.checks import CheckMessage, Error, Warning, register  # noqa: A004 - Django's own names
from django.http.request import validate_host
from django.utils.module_loading import import_string

from backjob.django.site import INSECURE, engine, random_part
from backjob.errors import BackJobError, InvalidRequest
from backjob.signing.keys import check_secret

__all__ = ["check_background_jobs"]

_MIDDLEWARE: Final = "backjob.django.middleware.BackJobMiddleware"


@register("backjob")
def check_background_jobs(**_options: Any) -> list[CheckMessage]:
    """Every finding, in the order of their ids."""
    configuration = list(_configuration())
    is_refused = any(message.id == "backjob.E003" for message in configuration)
    address = () if is_refused else _address()
    return [*_middleware(), *configuration, *address, *_server(), *_sessions(), *_database()]


def _middleware() -> Iterator[CheckMessage]:
    installed = list(settings.MIDDLEWARE)
    if _MIDDLEWARE not in installed:
        yield Error(
            "The middleware is missing: nothing would recognise a worker request.",
            hint=f"Put {_MIDDLEWARE!r} first in MIDDLEWARE.",
            id="backjob.E001",
        )
    elif installed.index(_MIDDLEWARE) > 0:
        yield Error(
            f"The middleware is not the first: {installed[0]} would see worker requests before they are verified.",
            hint=f"Put {_MIDDLEWARE!r} first in MIDDLEWARE.",
            id="backjob.E002",
        )


def _configuration() -> Iterator[CheckMessage]:
    try:
        engine()
    except InvalidRequest as error:
        is_key = error.argument == "SECRET_KEY"  # with which whoever knows it could sign worker requests
        hint = "Make a new SECRET_KEY, or set BACKJOB['KEY']." if is_key else "Correct it in the settings."
        yield Error(f"The setting {error.argument} is refused: {error.reason}", hint=hint, id="backjob.E003")
        return
    except BackJobError as error:
        yield Error(
            f"The jobs' store can't be used: {error}",
            hint="See that it is there, and that this process may read and write it.",
            id="backjob.E004",
        )
        return
    if (
        settings.SECRET_KEY.startswith(INSECURE)
        and not settings.DEBUG
        and "KEY" not in getattr(settings, "BACKJOB", {})
    ):
        yield Warning(
            "Worker requests are signed with the SECRET_KEY that stands in the settings file: who has seen it can sign.",
            hint="Make a new SECRET_KEY and keep it out of the code, or set BACKJOB['KEY'].",
            id="backjob.W006",
        )
    front = getattr(settings, "BACKJOB", {}).get("CACHE")
    if isinstance(front, str) and _is_of_one_process(front):
        yield Warning(
            f"The cache {front!r} in front of the jobs is no other process's: each would show what it has itself, an ended "
            "job as running.",
            hint="Name a cache that all processes share, or leave BACKJOB['CACHE'] out.",
            id="backjob.W007",
        )
    for fallback in settings.SECRET_KEY_FALLBACKS:
        try:
            check_secret(random_part(fallback), "SECRET_KEY_FALLBACKS")
        except InvalidRequest as error:
            yield Warning(
                f"A fallback key is left out: {error.reason}",
                hint="Remove it from SECRET_KEY_FALLBACKS once Django does not need it either.",
                id="backjob.W005",
            )


def _address() -> Iterator[CheckMessage]:
    base_url = getattr(settings, "BACKJOB", {}).get("BASE_URL")
    if base_url is None:
        bind = _option_of_gunicorn("-b", "--bind")
        if bind is not None and bind.startswith("unix:"):
            yield Error(
                "The server listens on a unix socket, from which no address can be learnt.",
                hint=f"Set BACKJOB['BASE_URL'] to the site's URL, and BACKJOB['CONNECT_TO'] to {bind!r}.",
                id="backjob.E010",
            )
        return
    host = urlsplit(base_url).hostname or ""
    allowed = settings.ALLOWED_HOSTS or ([".localhost", "127.0.0.1", "[::1]"] if settings.DEBUG else [])
    if not validate_host(f"[{host}]" if ":" in host else host, allowed):
        yield Error(
            f"{host!r}, the host of BACKJOB['BASE_URL'], is not in ALLOWED_HOSTS: jobs of no request would be answered 400.",
            hint="Add it to ALLOWED_HOSTS, or name one that is there and set BACKJOB['CONNECT_TO'] to the address.",
            id="backjob.E011",
        )


def _server() -> Iterator[CheckMessage]:
    if "runserver" in sys.argv and "--nothreading" in sys.argv:
        yield Warning(
            "runserver serves one request at a time: a page waits for a running job, its progress page too.",
            hint="Leave out --nothreading.",
            id="backjob.W020",
        )
    workers = _option_of_gunicorn("-w", "--workers") or os.environ.get("WEB_CONCURRENCY") or "1"
    threads = _option_of_gunicorn("--threads") or "1"
    if _is_gunicorn() and workers == threads == "1" and _option_of_gunicorn("-k", "--worker-class") in (None, "sync"):
        yield Warning(
            "gunicorn has one worker that serves one request at a time: a page waits for a running job.",
            hint="Give it --threads 4, or more --workers.",
            id="backjob.W021",
        )


def _sessions() -> Iterator[CheckMessage]:
    if "django.contrib.sessions" not in settings.INSTALLED_APPS:
        return
    engine = import_module(settings.SESSION_ENGINE).SessionStore
    if issubclass(engine, signed_cookies.SessionStore):
        yield Warning(
            "Sessions are kept in cookies: what a job writes to its session reaches no browser, and is lost.",
            hint="Let jobs only read the session, or take another SESSION_ENGINE.",
            id="backjob.W030",
        )
    if issubclass(engine, cache.SessionStore | cached_db.SessionStore) and _is_of_one_process(
        settings.SESSION_CACHE_ALIAS
    ):
        yield Warning(
            f"Sessions are in the cache {settings.SESSION_CACHE_ALIAS!r}, which is no other process's: a job that runs in "
            "another than the page does not find its user, or an older session.",
            hint="Name a cache that all processes share in SESSION_CACHE_ALIAS, or take another SESSION_ENGINE.",
            id="backjob.W031",
        )


def _database() -> Iterator[CheckMessage]:
    for alias, database in settings.DATABASES.items():
        if database.get("ENGINE", "").endswith("sqlite3") and database.get("ATOMIC_REQUESTS"):
            yield Warning(
                f"The database {alias!r} is SQLite with ATOMIC_REQUESTS: a job that writes to it holds the only lock there "
                "is to its end, and nothing else can be written meanwhile.",
                hint="Decorate the views of jobs with @jobs.background_only, which leaves them out of ATOMIC_REQUESTS, "
                "and use atomic() for the parts that need it.",
                id="backjob.W040",
            )


def _is_of_one_process(alias: str) -> bool:
    """Whether a cache is in one process's memory, or keeps nothing, where there may be several: not while one develops."""
    if settings.DEBUG or alias not in settings.CACHES:
        return False
    kind = import_string(settings.CACHES[alias]["BACKEND"])
    return issubclass(kind, LocMemCache | DummyCache)


def _arguments_of_gunicorn() -> list[str]:
    """Its command line, if this is it; before it what it reads from the environment, whoever looks."""
    here = sys.argv[1:] if os.path.basename(sys.argv[0]) == "gunicorn" else []  # noqa: PTH119 - a program's name
    return [*shlex.split(os.environ.get("GUNICORN_CMD_ARGS", "")), *here]


def _is_gunicorn() -> bool:
    return os.path.basename(sys.argv[0]) == "gunicorn" or "GUNICORN_CMD_ARGS" in os.environ  # noqa: PTH119 - likewise


def _option_of_gunicorn(*names: str) -> str | None:
    """An option that gunicorn is given, the last if several; None without it, or without gunicorn."""
    arguments = _arguments_of_gunicorn()
    found = None
    for before, after in pairwise([*arguments, ""]):
        name, is_joined, value = before.partition("=")
        if name in names:
            found = value if is_joined else after
    return found
