"""Run the Django tests on each supported version of Django, in separate environments: ``nox``, or ``nox -s django6``."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"

_NEEDED = (
    "pytest>=8.3", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "gunicorn>=23", "uvicorn[standard]>=0.34", "http-message-signatures>=1",
    "trustme>=1.2", "django-prometheus>=2.4", "djangorestframework>=3.16", "opentelemetry-instrumentation-asgi>=0.50b0", "opentelemetry-instrumentation-django>=0.50b0",
    "babel>=2.14", "cachelib>=0.13", "opentelemetry-sdk>=1.30", "flask>=3.0", "starlette>=0.45", "httpx>=0.28", "redis>=5.3", "celery>=5.5",
)  # fmt: skip
# Excludes the store contract on database servers: it takes minutes, and the main suite runs it.
_QUICK = "not OnPostgreSQL and not OnMariaDB"
_SERVERS = "django-runserver or django-gunicorn-sync-2 or django_asgi-uvicorn-h11"


def _python(*versions: str) -> str:
    """The first of these Pythons that works, from PATH or pyenv; else the name of the first."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    for version in versions:
        found = (shutil.which(f"python{version}"), *sorted(pyenv.glob(f"versions/*/bin/python{version}"), reverse=True))
        for program in filter(None, found):
            # pyenv also has shims for inactive versions; those fail.
            if subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode == 0:  # noqa: S603 - a Python
                return str(program)
    return versions[0]


@nox.session(python=_python("3.11"))
def django52(session: nox.Session) -> None:
    """Django 5.2 with the package django-tasks."""
    _test(session, "django~=5.2.0", "django-tasks")


@nox.session(python=_python("3.12", "3.13", "3.14"))
def django6(session: nox.Session) -> None:
    """Django 6, which includes the Tasks framework."""
    _test(session, "django>=6,<7", "django")


def _test(session: nox.Session, django: str, extra: str) -> None:
    session.install("-e", f".[{extra},mysql,postgresql,testing]", django, *_NEEDED)
    session.run("python", "-m", "pytest", "tests/adapters/django", "-k", _QUICK, *session.posargs)
    session.run(
        "python",
        "-m",
        "pytest",
        "tests/scenarios",
        "-m",
        "not nightly and not benchmark",
        "-k",
        _SERVERS,
        *session.posargs,
    )
