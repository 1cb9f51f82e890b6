"""What ``manage.py check`` says of the site's background jobs: each finding has an id and a hint."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register  # noqa: A004 - Django's own names
from django.http.request import validate_host

from backjob.django.site import INSECURE, jobs, random_part
from backjob.errors import BackJobError, InvalidRequest
from backjob.keys import check_secret

__all__ = ["check_background_jobs"]

_MIDDLEWARE: Final = "backjob.django.middleware.BackJobMiddleware"
_LOST_SESSIONS: Final = "django.contrib.sessions.backends.signed_cookies"


@register("backjob")
def check_background_jobs(**_options: Any) -> list[CheckMessage]:
    """Every finding, in the order of their ids."""
    return [*_middleware(), *_configuration(), *_address(), *_server(), *_sessions(), *_database()]


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
        jobs.of()
    except InvalidRequest as error:
        is_key = error.argument == "SECRET_KEY"  # with which whoever knows it could sign worker requests
        hint = "Make a new SECRET_KEY, or set BACKJOB['KEY']." if is_key else None
        yield Error(f"The setting {error.argument} is refused: {error.reason}", hint=hint, id="backjob.E003")
        return
    except BackJobError as error:
        yield Error(f"The jobs' store can't be used: {error}", id="backjob.E004")
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
    for fallback in settings.SECRET_KEY_FALLBACKS:
        try:
            check_secret(random_part(fallback), "SECRET_KEY_FALLBACKS")
        except InvalidRequest as error:
            yield Warning(f"A fallback key is left out: {error.reason}", id="backjob.W005")


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
    if settings.SESSION_ENGINE == _LOST_SESSIONS and "django.contrib.sessions" in settings.INSTALLED_APPS:
        yield Warning(
            "Sessions are kept in cookies: what a job writes to its session reaches no browser, and is lost.",
            hint="Let jobs only read the session, or take another SESSION_ENGINE.",
            id="backjob.W030",
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


def _is_gunicorn() -> bool:
    return os.path.basename(sys.argv[0]) == "gunicorn"  # noqa: PTH119 - a program's name


def _option_of_gunicorn(*names: str) -> str | None:
    """An option of the command line, if it is gunicorn's."""
    if not _is_gunicorn():
        return None
    for before, after in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        name, is_joined, value = before.partition("=")
        if name in names:
            return value if is_joined else after
    return None
