"""Open the `BackJob` that a command works on: an application's, or one for a store that options or environment name."""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

from attrs import evolve, frozen

from backjob.errors import InvalidRequest
from backjob.jobs import BackJob, engine_of, set_up_for_command
from backjob.protocols import Capability, lacks
from backjob.settings import Settings, named
from backjob.stores import has_tables

PREFIX: Final = "BACKJOB_"
"""The prefix of settings in the environment."""


def environment_settings() -> Settings:
    """Return the settings in the environment. Raises `InvalidRequest` for an unknown name with our prefix."""
    return Settings.of(os.environ, prefix=PREFIX)


@frozen
class Source:
    """The source of a command's jobs: a framework's ``jobs``, the application ``--app``, or else the ``--store``."""

    jobs: BackJob | None = None
    app: str | None = None
    store: str | None = None

    @property
    def is_application(self) -> bool:
        """Whether the settings are an application's; otherwise they come from the environment."""
        return self.jobs is not None or self.app is not None

    def open(self) -> AbstractContextManager[BackJob]:
        """Open the jobs to read and change them. The context closes them at its end, except a framework's.

        From a store alone, the `BackJob` has a random key and no base URL, so it delivers nothing. Raises
        `InvalidRequest`, and `StoreError` if the store can't be opened.
        """
        if (application := self._application()) is not None:
            return application
        settings = self._settings()
        settings = evolve(settings, base_url=None, connect_to=None, key=secrets.token_bytes(32), key_fallbacks=None)
        url = settings.store or ""
        if has_tables(url) and "create_table=" not in url:
            # A command must not create a database: a mistyped URL would lead to an empty one.
            settings = evolve(settings, create_table=False)
        jobs = _built(settings)
        engine_of(jobs).show_all()  # without their keys, applications can't be distinguished
        return jobs

    def open_to_deliver(self) -> AbstractContextManager[BackJob]:
        """Open the jobs to deliver some of them, which from a store alone needs a base URL and a key. Raises the errors of `open`."""
        if (application := self._application()) is not None:
            return application
        settings = self._settings()
        needed = {"BASE_URL": settings.base_url, "KEY": settings.key}
        missing = [PREFIX + name for name, value in needed.items() if value is None]
        if missing:
            names = " and ".join(missing)
            raise InvalidRequest("store", f"to deliver jobs, pass --app module:jobs, or set {names}")
        return _built(settings)

    def open_to_run(self) -> AbstractContextManager[BackJob]:
        """Open the jobs of an application that runs in this process. Raises the errors of `open`."""
        application = self._application()
        if application is None:
            raise InvalidRequest("app", "pass --app module:jobs: a worker runs the application itself")
        return application

    def _application(self) -> AbstractContextManager[BackJob] | None:
        if self.jobs is not None:
            return nullcontext(self.jobs)
        return None if self.app is None else _imported(self.app)

    def _settings(self) -> Settings:
        settings = environment_settings()
        if self.store is not None:
            settings = evolve(settings, store=self.store)
        if settings.store is None:
            raise InvalidRequest("store", f"pass --store URL or --app module:jobs, or set {PREFIX}STORE")
        return settings


def imported_from_here(name: str, argument: str) -> object:
    """Import the object ``module:name``, also from the current directory. Raises `InvalidRequest` naming the argument."""
    _import_from_here()
    return named(name, argument)


def _imported(name: str) -> BackJob:
    found = imported_from_here(name, "app")
    if not isinstance(found, BackJob):
        raise InvalidRequest("app", f"{name} is not a BackJob, but a {type(found).__name__}")
    set_up_for_command(found)
    return found


def _built(settings: Settings) -> BackJob:
    if settings.cache is not None:
        _import_from_here()
    jobs = settings.build(BackJob, package="backjob.cli", application="", default_store=lambda: settings.store or "")
    if Capability.SHARED in lacks(jobs.store):
        jobs.close()
        raise InvalidRequest("store", "this store is in the memory of one process; no other process can see its jobs")
    return jobs


def _import_from_here() -> None:
    """Make the modules in the current directory importable."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
