"""The checks of ``manage.py check`` for background jobs; each message has an id and a hint."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import pairwise
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.sessions.backends import cache, cached_db, signed_cookies
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.checks import CheckMessage, Error, Info, Warning, register  # noqa: A004 - Django's own names
from django.db import DEFAULT_DB_ALIAS
from django.http.request import validate_host
from django.utils.module_loading import import_string

from backjob.django.site import INSECURE, engine, random_part, without_effect
from backjob.errors import InvalidRequest, StoreError
from backjob.signing.keys import check_secret

SQLITE_OPTIONS: Final[Mapping[str, object]] = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
}
"""OPTIONS of a database in SQLite that jobs and pages write to."""

_MIDDLEWARE: Final = "backjob.django.middleware.BackJobMiddleware"
_HARMLESS_BEFORE: Final = frozenset(
    {
        "aws_xray_sdk.ext.django.middleware.XRayMiddleware",
        "django_guid.middleware.guid_middleware",
        "django_prometheus.middleware.PrometheusBeforeMiddleware",
        "elasticapm.contrib.django.middleware.TracingMiddleware",
        "instana.instrumentation.django.middleware.InstanaMiddleware",
        "opentelemetry.instrumentation.django.middleware.otel_middleware._DjangoMiddleware",
        "scout_apm.django.middleware.MiddlewareTimingMiddleware",
    }
)
"""They measure requests, must be the first to do so, and decide nothing; some insert themselves."""


@register("backjob")
def check_background_jobs(**_options: Any) -> list[CheckMessage]:
    """Return all messages."""
    configuration = list(_configuration())
    is_refused = any(message.id == "backjob.E003" for message in configuration)
    address = () if is_refused else _address()
    return [*_middleware(), *configuration, *address, *_server(), *_sessions(), *_database()]


def _middleware() -> Iterator[CheckMessage]:
    installed = list(settings.MIDDLEWARE)
    if _MIDDLEWARE not in installed:
        yield Error(
            "The middleware is missing, so the site does not recognise worker requests.",
            hint=f"Put {_MIDDLEWARE!r} first in MIDDLEWARE.",
            id="backjob.E001",
        )
        return
    before = [one for one in installed[: installed.index(_MIDDLEWARE)] if one not in _HARMLESS_BEFORE]
    if before:
        yield Warning(
            f"The middleware is not the first: {', '.join(before)} sees worker requests before they are verified, as they "
            "are on the wire: with a signature, and with the server's scheme and client address.",
            hint=f"Put {_MIDDLEWARE!r} first in MIDDLEWARE. If what comes before it only measures, add 'backjob.W002' to "
            "SILENCED_SYSTEM_CHECKS.",
            id="backjob.W002",
        )


def _configuration() -> Iterator[CheckMessage]:
    try:
        own = engine()
    except InvalidRequest as error:
        is_key = error.argument == "SECRET_KEY"
        hint = "Generate a new SECRET_KEY, or set BACKJOB['KEY']." if is_key else "Correct it in the settings."
        yield Error(f"Invalid setting {error.argument}: {error.reason}", hint=hint, id="backjob.E003")
        return
    except StoreError as error:
        yield Error(
            f"backjob can't use the store: {error}",
            hint="Check that it exists, and that this process may read and write it.",
            id="backjob.E004",
        )
        return
    except Exception as error:
        yield Error(
            f"backjob can't be set up: {error}",
            hint="Until this is corrected, jobs.start() raises it; pages that start no jobs work.",
            id="backjob.E005",
        )
        return
    options = getattr(settings, "BACKJOB", {})
    yield from _keys(options)
    front = options.get("CACHE")
    if isinstance(front, str) and _is_of_one_process(front):
        yield Warning(
            f"The cache {front!r} in front of the jobs belongs to one process: another may show an ended job as running "
            "for a second.",
            hint="Name a cache that all processes share, or remove BACKJOB['CACHE'].",
            id="backjob.W007",
        )
    if unused := without_effect(options):
        yield Warning(
            f"These settings in BACKJOB have no effect: {', '.join(unused)}. The jobs are in the site's database.",
            hint="Remove them: migrations create the tables. To keep the jobs elsewhere, set BACKJOB['STORE'] to a URL.",
            id="backjob.W009",
        )
    if own.lacks_logins:
        yield Info(
            "DELIVER leaves queues to other processes, which have no logins of users: jobs.start() refuses jobs of these "
            "queues that run as the current user.",
            hint="Set BACKJOB['SEAL'] to True. If such jobs run with as_owner=True or as_current_user=False, add "
            "'backjob.I012' to SILENCED_SYSTEM_CHECKS.",
            id="backjob.I012",
        )


def _keys(options: Mapping[str, Any]) -> Iterator[CheckMessage]:
    if settings.DEBUG and "KEY" not in options:
        try:
            check_secret(random_part(settings.SECRET_KEY), "SECRET_KEY")
        except InvalidRequest as error:
            yield Warning(
                f"SECRET_KEY {error.reason}: it is accepted only with DEBUG, and otherwise jobs.start() raises this error.",
                hint="Generate a new SECRET_KEY, or set BACKJOB['KEY'].",
                id="backjob.W008",
            )
    if settings.SECRET_KEY.startswith(INSECURE) and not settings.DEBUG and "KEY" not in options:
        yield Warning(
            "Worker requests are signed with the SECRET_KEY from the settings file: everyone who has read that file can sign.",
            hint="Generate a new SECRET_KEY and keep it out of the code, or set BACKJOB['KEY'].",
            id="backjob.W006",
        )
    for fallback in settings.SECRET_KEY_FALLBACKS:
        try:
            check_secret(random_part(fallback), "SECRET_KEY_FALLBACKS")
        except InvalidRequest as error:
            yield Warning(
                f"backjob ignores a fallback key: {error.reason}",
                hint="Remove it from SECRET_KEY_FALLBACKS once Django does not need it.",
                id="backjob.W005",
            )


def _address() -> Iterator[CheckMessage]:
    given = getattr(settings, "BACKJOB", {})
    base_url = given.get("BASE_URL")
    if base_url is None:
        delivers = given.get("DELIVER")
        if delivers is not None and not delivers:
            return  # this process sends nothing
        bind = _option_of_gunicorn("-b", "--bind")
        if bind is not None and bind.startswith("unix:"):
            yield Error(
                "The server listens on a unix socket, so backjob can't find its address.",
                hint=f"Set BACKJOB['BASE_URL'] to the site's URL, and BACKJOB['CONNECT_TO'] to {bind!r}.",
                id="backjob.E010",
            )
        return
    host = urlsplit(base_url).hostname or ""
    allowed = settings.ALLOWED_HOSTS or ([".localhost", "127.0.0.1", "[::1]"] if settings.DEBUG else [])
    if not validate_host(f"[{host}]" if ":" in host else host, allowed):
        yield Error(
            f"{host!r}, the host of BACKJOB['BASE_URL'], is not in ALLOWED_HOSTS: jobs from outside of a request would get a 400.",
            hint="Add it to ALLOWED_HOSTS, or use an allowed host and set BACKJOB['CONNECT_TO'] to the server's address.",
            id="backjob.E011",
        )


def _server() -> Iterator[CheckMessage]:
    if "runserver" in sys.argv and "--nothreading" in sys.argv:
        yield Warning(
            "runserver serves one request at a time: while a job runs, every page waits, its progress page too.",
            hint="Remove --nothreading.",
            id="backjob.W020",
        )
    workers = _option_of_gunicorn("-w", "--workers") or os.environ.get("WEB_CONCURRENCY") or "1"
    threads = _option_of_gunicorn("--threads") or "1"
    is_gunicorn = _is_program_gunicorn() or "GUNICORN_CMD_ARGS" in os.environ
    if is_gunicorn and workers == threads == "1" and _option_of_gunicorn("-k", "--worker-class") in (None, "sync"):
        yield Warning(
            "gunicorn has one worker that serves one request at a time: while a job runs, every page waits.",
            hint="Add --threads 4, or more --workers.",
            id="backjob.W021",
        )


def _sessions() -> Iterator[CheckMessage]:
    if "django.contrib.sessions" not in settings.INSTALLED_APPS:
        return
    engine = import_module(settings.SESSION_ENGINE).SessionStore
    if issubclass(engine, signed_cookies.SessionStore):
        yield Warning(
            "Sessions are stored in cookies: a job's changes to its session never reach the browser and are lost.",
            hint="Only read the session in jobs, or use another SESSION_ENGINE.",
            id="backjob.W030",
        )
    if issubclass(engine, cache.SessionStore | cached_db.SessionStore) and _is_of_one_process(
        settings.SESSION_CACHE_ALIAS
    ):
        yield Warning(
            f"Sessions are in the cache {settings.SESSION_CACHE_ALIAS!r}, which belongs to one process: a job that runs in "
            "another process finds no user, or an older session.",
            hint="Name a cache that all processes share in SESSION_CACHE_ALIAS, or use another SESSION_ENGINE.",
            id="backjob.W031",
        )


def _database() -> Iterator[CheckMessage]:
    keeps_jobs = _alias_of_jobs()
    for alias, database in settings.DATABASES.items():
        is_sqlite = database.get("ENGINE", "").endswith("sqlite3")
        if is_sqlite and (alias == keeps_jobs or database.get("ATOMIC_REQUESTS")) and not _takes_turns(database):
            yield Warning(
                f"The database {alias!r} is SQLite without the options that make writers take turns: while a job writes, "
                'pages and other jobs that write fail with "database is locked".',
                hint=f'Add to DATABASES[{alias!r}]: "OPTIONS": {json.dumps(SQLITE_OPTIONS)}',
                id="backjob.W041",
            )
        if is_sqlite and database.get("ATOMIC_REQUESTS"):
            yield Warning(
                f"The database {alias!r} is SQLite with ATOMIC_REQUESTS: a job that writes to it keeps the only write lock "
                "until its end.",
                hint="Decorate the views of jobs with @jobs.background_only, which exempts them from ATOMIC_REQUESTS, "
                "and use atomic() for parts of them. backjob can't tell which views jobs run: once all are decorated, "
                "add 'backjob.W040' to SILENCED_SYSTEM_CHECKS.",
                id="backjob.W040",
            )


def _alias_of_jobs() -> str | None:
    """Return the alias of the database that keeps the jobs; None if they are kept elsewhere."""
    options = getattr(settings, "BACKJOB", {})
    if not isinstance(options, Mapping) or options.get("STORE") is not None:
        return None
    return options.get("DATABASE") or DEFAULT_DB_ALIAS


def _takes_turns(database: Mapping[str, Any]) -> bool:
    """Return whether writers to an SQLite database wait for each other, and readers never wait."""
    options = database.get("OPTIONS", {})
    locks_first = str(options.get("transaction_mode", "")).upper() in ("IMMEDIATE", "EXCLUSIVE")
    has_wal = re.search(r"journal_mode\s*=\s*['\"]?wal", options.get("init_command", ""), re.IGNORECASE) is not None
    return locks_first and has_wal and options.get("timeout", 5) >= 5


def _is_of_one_process(alias: str) -> bool:
    """Whether a cache is in one process's memory, or keeps nothing; False with DEBUG, which has one process."""
    if settings.DEBUG or alias not in settings.CACHES:
        return False
    kind = import_string(settings.CACHES[alias]["BACKEND"])
    return issubclass(kind, LocMemCache | DummyCache)


def _is_program_gunicorn() -> bool:
    return os.path.basename(sys.argv[0]) == "gunicorn"  # noqa: PTH119 - a program's name


def _option_of_gunicorn(*names: str) -> str | None:
    """Return the last value of an option in gunicorn's environment or, in gunicorn itself, its command line; or None."""
    arguments = shlex.split(os.environ.get("GUNICORN_CMD_ARGS", ""))
    arguments += sys.argv[1:] if _is_program_gunicorn() else []
    found = None
    for before, after in pairwise([*arguments, ""]):
        name, is_joined, value = before.partition("=")
        if name in names:
            found = value if is_joined else after
    return found
