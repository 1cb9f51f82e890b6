"""One Flask application: its middleware, and its engine, made at the first use."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict
from urllib.parse import quote

from flask import Blueprint, Flask

from backjob.errors import InvalidRequest
from backjob.flask.engine import FlaskEngine
from backjob.flask.sessions import merge_sessions_of_jobs
from backjob.jobs import BackJob, Engine, LazyEngine, Options
from backjob.jobs.options import Hook, is_status_prefix
from backjob.model import JobState
from backjob.protocols import Clock, Files, Signer, Store, Transport
from backjob.settings import Settings
from backjob.stores import load_store
from backjob.worker.running import current
from backjob.wsgi import BackJobMiddleware, without_engine

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_PREFIX: Final = "BACKJOB_"
_DEFAULT_STATUS_PREFIX: Final = "/backjob"

_default_stores: weakref.WeakValueDictionary[Path, Site] = weakref.WeakValueDictionary()


class Parts(TypedDict, total=False):
    """Arguments of the extension object that are not settings."""

    store: Store
    transport: Transport | Callable[[str], Transport]
    signer: Signer
    clock: Clock
    on_end: Callable[[JobState], object]
    files: Files | str | os.PathLike[str]
    may_see_all: Hook[bool]
    may_manage_all: Hook[bool]
    max_headers: int
    max_depth: int
    max_chain: int
    merge_cookies: Iterable[str]
    forward_headers: Iterable[str]
    credential_headers: Iterable[str]


class Site:
    """The value of ``app.extensions["backjob"]``. ``extension`` is the object that views use."""

    def __init__(self, app: Flask, extension: BackJob, owner: Hook[str | None] | None, parts: Parts) -> None:
        self.app = app
        self.extension = extension
        self._owner = owner
        Settings.check_names(app.config, prefix=_PREFIX)
        self._set_prefix = app.config.get(f"{_PREFIX}STATUS_PREFIX")
        self.status_prefix = self._set_prefix if is_status_prefix(self._set_prefix) else _DEFAULT_STATUS_PREFIX
        self._parts = parts
        if "store" not in parts:
            load_store(app.config.get(f"{_PREFIX}STORE") or "sqlite:")
        self._lazy: LazyEngine[Engine] = LazyEngine(self._build, parts.get("clock"))
        self._middleware: BackJobMiddleware | None = None

    def wrap(self, blueprint: Blueprint) -> None:
        """Wrap ``app.wsgi_app`` in the middleware. ``blueprint`` contains the status routes."""
        self._wsgi_app = self.app.wsgi_app
        self._blueprint = blueprint
        app: Any = self.app  # for type checkers wsgi_app is a method, which can't be replaced
        app.wsgi_app = self

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if self._middleware is None:
            engine = self._lazy.get_if_usable()
            if engine is None:
                return without_engine(self._wsgi_app, environ, start_response, self._parts.get("signer"))
            self._middleware = self._first_request(engine)
        return self._middleware(environ, start_response)

    @property
    def engine(self) -> Engine:
        """The engine, made at the first use. Raises `InvalidRequest` for settings, `MissingExtra` and `StoreError`."""
        return self._lazy.get()

    def close(self) -> None:
        """Close the engine, if it was ever used."""
        engine = self._lazy.built
        if engine is not None:
            engine.close()

    def _first_request(self, engine: Engine) -> BackJobMiddleware:
        """Set up what needs the complete application, with all its extensions."""
        middleware = BackJobMiddleware(self._application, engine, status=False)
        csrf = self.app.extensions.get("csrf")
        if hasattr(csrf, "protect") and hasattr(csrf, "exempt"):
            _exempt_from_csrf(csrf, self.extension, self._blueprint)
        return middleware

    def _application(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Call the application itself, inside of the middleware."""
        if current.get() is not None:
            merge_sessions_of_jobs(self.app)  # here, because an extension may have replaced the interface
        return self._wsgi_app(environ, start_response)

    def _settings(self) -> Settings:
        return Settings.of(self.app.config, prefix=_PREFIX)

    def _build(self) -> Engine:
        settings = self._settings()
        if settings.status_prefix != self._set_prefix:
            raise InvalidRequest("BACKJOB_STATUS_PREFIX", "was changed after init_app(), which added the routes")
        secret = self.app.secret_key
        if not secret and settings.key is None and "signer" not in self._parts:
            raise InvalidRequest(
                "SECRET_KEY",
                "is not set, nor is BACKJOB_KEY, and worker requests are signed; "
                "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
            )
        parts: dict[str, Any] = {**self._parts}
        if "on_end" in self._parts:
            parts["on_end"] = self._in_context(self._parts["on_end"])
        return settings.build(
            lambda **options: FlaskEngine(Options(**options), self.extension),
            secret=secret,
            secret_fallbacks=self.app.config.get("SECRET_KEY_FALLBACKS") or (),
            package="backjob.flask",
            application=self.app.name,
            default_store=self._default_store,
            owner=self._owner,
            debug=self.app.debug,
            **parts,
        )

    def _in_context(self, on_end: Callable[[JobState], object]) -> Callable[[JobState], object]:
        def within(state: JobState) -> object:
            with self.app.app_context():
                return on_end(state)

        return within

    def _default_store(self) -> str:
        folder = Path(self.app.instance_path)
        path = folder / "backjob.db"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidRequest(
                "BACKJOB_STORE", f"is not set, and the instance folder can't be created: {error}"
            ) from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InvalidRequest("BACKJOB_STORE", f"is not set, and the instance folder {folder} is not writable")
        other = _default_stores.setdefault(path, self)
        if other.app.name != self.app.name:
            # Each application would deliver the other's jobs, to itself.
            raise InvalidRequest(
                "BACKJOB_STORE",
                f"is not set, and {other.app.name!r} has the same instance folder: set it for one of them",
            )
        return f"sqlite:///{quote(str(path))}"


def _exempt_from_csrf(csrf: Any, extension: BackJob, blueprint: Blueprint) -> None:
    """Exempt worker requests, which are signed, and status routes, which check a token or the origin, from CSRFProtect."""
    csrf.exempt(blueprint)
    protect = csrf.protect

    def protect_others(*args: Any, **kwargs: Any) -> None:
        if not extension.is_background:
            protect(*args, **kwargs)

    csrf.protect = protect_others
