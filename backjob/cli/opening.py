"""Which jobs a command means: those of an application, or those in a store, as the environment and the options say."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Final

from attrs import evolve

from backjob.errors import InvalidRequest
from backjob.jobs import BackJob
from backjob.protocols import Capability, lacks
from backjob.settings import Settings, named
from backjob.stores import has_tables

__all__ = ["PREFIX", "application", "delivering", "looking", "settings_of_environment"]

PREFIX: Final = "BACKJOB_"
"""What the names of settings begin with in the environment."""


def settings_of_environment() -> Settings:
    """The settings in the environment. Raises `InvalidRequest` for a name that begins like ours and is none."""
    return Settings.of(os.environ, prefix=PREFIX)


def looking(app: str | None, store: str | None) -> BackJob:
    """A `BackJob` to look into jobs with: the application's own, or one with nothing but their store.

    The latter has no address, and so delivers nothing; and a key of its own, as a look needs none. Raises
    `InvalidRequest`, and `StoreError` where the store can't be opened.
    """
    if app is not None:
        return application(app)
    settings = _with_store(store)
    given = evolve(settings, base_url=None, connect_to=None, key=secrets.token_bytes(32), key_fallbacks=None)
    url = settings.store or ""
    if has_tables(url) and "create_table=" not in url:
        # A look must not make a database: a mistyped name would be an empty one.
        given = evolve(given, create_table=False)
    return _built(given)


def delivering(app: str | None, store: str | None) -> BackJob:
    """A `BackJob` that can deliver: the application's own, or the one that the settings describe in full.

    Raises as `looking` does.
    """
    if app is not None:
        return application(app)
    settings = _with_store(store)
    given = {"BASE_URL": settings.base_url, "KEY": settings.key}
    missing = [PREFIX + name for name, value in given.items() if value is None]
    if missing:
        names = " and ".join(missing)
        raise InvalidRequest("monitor", f"delivering needs the application: give --app module:jobs, or set {names}")
    return _built(settings)


def application(name: str) -> BackJob:
    """The `BackJob` that ``module:name`` names; the current directory is searched first. Raises `InvalidRequest`.

    What the module itself raises when it is imported comes as it is.
    """
    _search_here()
    found = named(name, "app")
    if not isinstance(found, BackJob):
        raise InvalidRequest("app", f"{name} is no BackJob, it is of type {type(found).__name__}")
    return found


def _with_store(url: str | None) -> Settings:
    settings = settings_of_environment()
    if url is not None:
        settings = evolve(settings, store=url)
    if settings.store is None:
        raise InvalidRequest("store", f"which jobs? Give --store URL or --app module:jobs, or set {PREFIX}STORE")
    return settings


def _built(settings: Settings) -> BackJob:
    if settings.cache is not None:
        _search_here()
    jobs = settings.build(BackJob, package="backjob.cli", application="", default_store=lambda: settings.store or "")
    if Capability.SHARED in lacks(jobs.store):
        jobs.close()
        raise InvalidRequest("store", "jobs in the memory of a process are seen by that process, and by no other")
    return jobs


def _search_here() -> None:
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
