"""Set up Django once in this process. Each database is created for the first test that needs it, and dropped at the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.adapters.django.settings")

import django
from django.conf import settings
from django.db import connections
from django.test.utils import setup_test_environment

from tests.adapters.django.sites import ANY_DATABASE
from tests.services import MARIADB, POSTGRES

django.setup()
setup_test_environment()


def _made(alias: str) -> Iterator[str]:
    connection = connections[alias]
    name = connection.settings_dict["NAME"]
    connection.creation.create_test_db(verbosity=0, autoclobber=True)
    yield alias
    connection.creation.destroy_test_db(name, verbosity=0)
    connection.close()


@pytest.fixture(scope="session")
def sqlite() -> Iterator[str]:
    """The alias of a migrated SQLite database."""
    yield from _made("default")
    shutil.rmtree(Path(settings.DATABASES["default"]["NAME"]).parent, ignore_errors=True)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The alias of a migrated PostgreSQL database."""
    POSTGRES.require()
    yield from _made("postgresql")


@pytest.fixture(scope="session")
def mariadb() -> Iterator[str]:
    """The alias of a migrated MariaDB database."""
    MARIADB.require()
    yield from _made("mariadb")


@pytest.fixture
def database(sqlite: str) -> Iterator[str]:
    """`sqlite`, empty. backjob reads the settings again before and after the test."""
    with _emptied():
        yield sqlite


@pytest.fixture(params=ANY_DATABASE)
def any_database(request: pytest.FixtureRequest, sqlite: str) -> Iterator[str]:
    """`database` on each kind of database, which in the test's thread is the project's default."""
    alias = request.getfixturevalue(request.param)
    own = connections["default"]
    if alias != "default":
        connections["default"] = connections[alias].copy("default")
    try:
        with _emptied():
            yield request.param
    finally:
        if alias != "default":
            connections["default"].close()
            connections["default"] = own


@contextmanager
def _emptied() -> Iterator[None]:
    from django.contrib.auth.models import User
    from django.contrib.sessions.models import Session

    from backjob.django import jobs
    from backjob.django.models import Job, Output
    from tests.adapters.django import views

    def empty() -> None:
        jobs.reset()
        for model in (Output, Job, Session, User):
            model._default_manager.all().delete()

    empty()  # a test of the store itself leaves jobs
    views.seen.clear()
    yield
    empty()


@pytest.fixture
def at_once() -> Iterator[None]:
    """Run jobs before `start()` returns, or when its transaction commits. Needs a database."""
    from backjob.django.testing import immediate

    with immediate():
        yield
