"""One application's part in an extension object: its middleware, and its jobs, made when they are first needed."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict
from urllib.parse import quote

from flask import Blueprint, Flask

from backjob.errors import InvalidRequest
from backjob.jobs import facade as core
from backjob.model import JobState
from backjob.protocols import Clock, Signer, Store, Transport
from backjob.settings import Settings
from backjob.wsgi import BackJobMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["Parts", "Site"]

_PREFIX: Final = "BACKJOB_"
_DEFAULT_STATUS_PREFIX: Final = "/backjob"

_default_stores: weakref.WeakValueDictionary[Path, Site] = weakref.WeakValueDictionary()


class Parts(TypedDict, total=False):
    """What may be given to the extension object, and is no setting."""

    store: Store
    transport: Transport | Callable[[str], Transport]
    signer: Signer
    clock: Clock
    on_end: Callable[[JobState], object]
    max_headers: int
    max_depth: int


class Site:
    """What ``app.extensions["backjob"]`` holds. ``extension`` is the object that views know."""

    def __init__(self, app: Flask, extension: core.BackJob, parts: Parts) -> None:
        self.app = app
        self.extension = extension
        self.status_prefix = self._settings().status_prefix or _DEFAULT_STATUS_PREFIX
        self._parts = parts
        self._building = threading.Lock()
        self._jobs: core.BackJob | None = None
        self._middleware: BackJobMiddleware | None = None

    def wrap(self, blueprint: Blueprint) -> None:
        """Put the middleware around ``app.wsgi_app``; the blueprint has the status routes."""
        self._wsgi_app = self.app.wsgi_app
        self._blueprint = blueprint
        app: Any = self.app  # to Flask's types wsgi_app is a method, which nobody may replace
        app.wsgi_app = self

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if self._middleware is None:
            self._middleware = self._first_request()
        return self._middleware(environ, start_response)

    @property
    def jobs(self) -> core.BackJob:
        """The core's `BackJob`, made at the first use. Raises `InvalidRequest` for settings, and `StoreError`."""
        if self._jobs is None:
            with self._building:
                self._jobs = self._jobs or self._build()
        return self._jobs

    def close(self) -> None:
        """Close the jobs, if there are any."""
        if self._jobs is not None:
            self._jobs.close()

    def _first_request(self) -> BackJobMiddleware:
        """By now the application is complete, whatever the order of its extensions."""
        middleware = BackJobMiddleware(self._wsgi_app, self.jobs, status=False)
        csrf = self.app.extensions.get("csrf")
        if hasattr(csrf, "protect") and hasattr(csrf, "exempt"):
            _spare(csrf, self.extension, self._blueprint)
        return middleware

    def _settings(self) -> Settings:
        return Settings.of(self.app.config, prefix=_PREFIX)

    def _build(self) -> core.BackJob:
        settings = self._settings()
        if (settings.status_prefix or _DEFAULT_STATUS_PREFIX) != self.status_prefix:
            raise InvalidRequest("BACKJOB_STATUS_PREFIX", "was changed after init_app(), which made the routes")
        secret = self.app.secret_key
        if not secret and settings.key is None and "signer" not in self._parts:
            raise InvalidRequest(
                "SECRET_KEY",
                "neither it nor BACKJOB_KEY is set, and worker requests are signed; "
                "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
            )
        parts: dict[str, Any] = {**self._parts}
        if "on_end" in self._parts:
            parts["on_end"] = self._in_context(self._parts["on_end"])
        jobs = settings.build(
            core.BackJob,
            secret=secret,
            secret_fallbacks=self.app.config.get("SECRET_KEY_FALLBACKS") or (),
            package="backjob.flask",
            application=self.app.name,
            default_store=self._default_store,
            **parts,
        )
        jobs.worker.owner = self.extension
        return jobs

    def _in_context(self, on_end: Callable[[JobState], object]) -> Callable[[JobState], object]:
        def within(state: JobState) -> object:
            with self.app.app_context():
                return on_end(state)

        return within

    def _default_store(self) -> str:
        folder = Path(self.app.instance_path)
        path = folder / "backjob.db"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidRequest("BACKJOB_STORE", f"not set, and there can be no instance folder: {error}") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InvalidRequest("BACKJOB_STORE", f"not set, and the instance folder {folder} is not writable")
        other = _default_stores.setdefault(path, self)
        if other.app.name != self.app.name:
            # Each would deliver the other's jobs, to itself.
            raise InvalidRequest(
                "BACKJOB_STORE", f"not set, and {other.app.name!r} has the same instance folder: set it for one of them"
            )
        return f"sqlite:///{quote(str(path))}"


def _spare(csrf: Any, extension: core.BackJob, blueprint: Blueprint) -> None:
    """Let Flask-WTF's CSRFProtect pass what is proven otherwise: a worker request by its signature, and the status
    routes, which look for a token or the origin themselves.
    """
    csrf.exempt(blueprint)
    protect = csrf.protect

    def protect_others(*args: Any, **kwargs: Any) -> None:
        if not extension.is_background:
            protect(*args, **kwargs)

    csrf.protect = protect_others
