"""``jobs``: the site's background jobs, configured by the setting ``BACKJOB``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, ParamSpec, TypeVar, Unpack

import django
from attrs import evolve
from django.apps import apps
from django.conf import ENVIRONMENT_VARIABLE, settings
from django.core.exceptions import ImproperlyConfigured
from django.core.wsgi import get_wsgi_application
from django.db import transaction
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.module_loading import import_string
from typing_extensions import override

from backjob.django.engine import DjangoEngine, current_request
from backjob.django.files import StorageFiles
from backjob.django.signals import set_on_end
from backjob.errors import InvalidRequest
from backjob.http.inherited import credential_names
from backjob.http.origins import URL, is_url
from backjob.http.serving import serving
from backjob.jobs import BackJob as CoreBackJob
from backjob.jobs import LazyEngine, Options, StartOptions, check_options
from backjob.protocols import Store
from backjob.settings import Settings
from backjob.stores import load_store

__all__ = ["INSECURE", "BackJob", "engine", "jobs", "random_part", "without_effect"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_log = logging.getLogger("backjob")

_DJANGO_ONLY: Final = ("DATABASE", "OWNER", "MAY_SEE_ALL", "MAY_MANAGE_ALL", "ON_END")
"""Settings that exist only for Django."""

INSECURE: Final = "django-insecure-"
"""The prefix of a SECRET_KEY that ``startproject`` wrote into the settings file."""


class BackJob(CoreBackJob):
    """The background jobs of this Django site: `backjob.BackJob`, configured by the dict ``BACKJOB`` in the settings.

    Besides the settings that are the same everywhere, ``DATABASE`` is the alias of the database that keeps the jobs,
    ``OWNER`` the dotted path of a function ``owner(request) -> str | None`` (by default it returns the primary key of the
    logged-in user), ``MAY_SEE_ALL`` and ``MAY_MANAGE_ALL`` those of ``may_see_all(request)`` and ``may_manage_all(request)``
    (by default they check the permissions of staff), and ``ON_END`` that of a function that is called with the state of each
    job that ends. ``CACHE`` is the name of one of ``CACHES``, used in front of the store, and ``FILES`` may be that of one of
    ``STORAGES``. The key is derived from ``SECRET_KEY`` and
    ``SECRET_KEY_FALLBACKS``. The settings are read at the first use.
    """

    def __init__(self) -> None:
        self._lazy = LazyEngine(self._build)

    @property
    @override
    def _engine(self) -> DjangoEngine:
        """The engine, made at the first use. Raises `InvalidRequest` for a setting, `MissingExtra` and `StoreError`."""
        return self._lazy.get()

    def load_store(self) -> None:
        """Import the store, so that the first request does not wait for that. A mistake in the settings changes nothing."""
        given = getattr(settings, "BACKJOB", {})
        url = given.get("STORE") if isinstance(given, Mapping) else None
        if url is not None:
            load_store(url)
            return
        with suppress(Exception):  # `_build` raises it
            from backjob.django import store  # noqa: F401, PLC0415 - models need the app registry

    @property
    def built(self) -> DjangoEngine | None:
        """The engine, if it has been used yet."""
        return self._lazy.built

    def engine_if_usable(self) -> DjangoEngine | None:
        """Return the engine, or None if the settings or the store can't be used: then the site works without jobs."""
        return self._lazy.get_if_usable()

    def reset(self) -> None:
        """Close everything; the next use reads the settings again. For settings that a test overrides."""
        built = self._lazy.reset()
        if built is not None:
            built.close()

    @override
    def start(
        self,
        path: str | URL,
        query: Mapping[str, Any] | None = None,
        *,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[StartOptions],
    ) -> str:
        """Start a job as `backjob.BackJob.start` does, also by the name of a view.

        ``path`` is a path if it begins with a slash, or a URL of this site; otherwise the name of a view, to be reversed
        with ``args`` or ``kwargs``. Within ``atomic()`` the job becomes visible, and is delivered, when the transaction
        commits; on rollback it never exists. Raises `InvalidRequest` ("path") also for a name without a route.
        """
        if isinstance(path, str) and not path.startswith("/") and not is_url(path):
            check_options(options, "args or kwargs")
            path = self._path_to(path, args, kwargs)
        elif args is not None or kwargs is not None:
            raise InvalidRequest("path", "args and kwargs need the name of a view, but this is a path")
        return super().start(path, query, **options)

    def _path_to(self, name: str, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None) -> str:
        try:
            path = reverse(name, args=args, kwargs=None if kwargs is None else dict(kwargs))
        except NoReverseMatch as error:
            raise InvalidRequest("path", str(error)) from None
        here = serving.get()
        # Below a mount, pass a URL of this site, from which the core works out how much of it is on the wire.
        return path if here is None or not here.mount else f"{here.origin}{path}"

    @staticmethod
    def current_request() -> HttpRequest | None:
        """Return Django's request that is being served, or None."""
        return current_request()

    @override
    def background_only(self, action: Callable[_P, _R]) -> Callable[_P, _R]:
        """Decorate a view that only a verified worker request may run: others get a 403.

        The view is exempt from ATOMIC_REQUESTS, since no transaction should last as long as a job. Use
        ``with transaction.atomic()`` for parts of it.
        """
        guarded: Callable[_P, _R] = transaction.non_atomic_requests(super().background_only(action))
        return guarded

    @override
    def _application(self) -> Any:
        return get_wsgi_application()

    @override
    def _set_up_for_command(self) -> None:
        if apps.ready:
            return
        try:
            django.setup()
        except ImproperlyConfigured as error:
            if settings.configured:
                raise
            raise InvalidRequest(
                "app", f"set {ENVIRONMENT_VARIABLE} to your settings, or run: python manage.py backjob"
            ) from error

    def _build(self) -> DjangoEngine:
        given = getattr(settings, "BACKJOB", {})
        if not isinstance(given, Mapping):
            raise InvalidRequest("BACKJOB", "must be a dict of settings")
        own = {name: given.get(name) for name in _DJANGO_ONLY}
        cache = given.get("CACHE")
        read = Settings.of({**given, "CACHE": _cache(cache)} if isinstance(cache, str) else given, beside=_DJANGO_ONLY)
        if own["DATABASE"] is not None and read.store is not None:
            raise InvalidRequest("DATABASE", "can't be combined with STORE: jobs are kept in one place")
        if read.credential_headers is None:
            read = evolve(read, credential_headers=credential_names(_login_variables()))
        store: Store | None = None
        if read.store is None:
            from backjob.django.store import DjangoStore  # noqa: PLC0415 - models need the app registry

            store = DjangoStore(own["DATABASE"] or "default")
            if without_effect(given):
                _log.warning(
                    "no effect of these settings in BACKJOB, because migrations create the tables of the jobs: %s",
                    ", ".join(without_effect(given)),
                )
        if isinstance(read.files, str) and read.files in settings.STORAGES:
            read = evolve(read, files=StorageFiles(read.files))
        set_on_end(_imported("ON_END", own["ON_END"]))
        return read.build(
            lambda **options: DjangoEngine(Options(**options), self),
            secret=random_part(settings.SECRET_KEY),
            secret_fallbacks=[random_part(one) for one in settings.SECRET_KEY_FALLBACKS],
            package="backjob.django",
            application=settings.ROOT_URLCONF,
            default_store=lambda: "",
            store=store,
            owner=_imported("OWNER", own["OWNER"]),
            may_see_all=_imported("MAY_SEE_ALL", own["MAY_SEE_ALL"]),
            may_manage_all=_imported("MAY_MANAGE_ALL", own["MAY_MANAGE_ALL"]),
            debug=settings.DEBUG,
        )


def _login_variables() -> Iterator[str]:
    """Yield the variables in which the site's middlewares find a user: without them a job would log the user out."""
    if not apps.is_installed("django.contrib.auth"):
        return
    from django.contrib.auth.middleware import RemoteUserMiddleware  # noqa: PLC0415 - models need the app registry

    for name in settings.MIDDLEWARE:
        kind = import_string(name)
        if isinstance(kind, type) and issubclass(kind, RemoteUserMiddleware):
            yield kind.header


def without_effect(given: Mapping[str, Any]) -> list[str]:
    """Return the names in the setting ``BACKJOB`` that only stores by URL have, if the jobs are in Django's database."""
    if given.get("STORE") is not None:
        return []
    return [name for name in ("TABLE_NAME", "CREATE_TABLE") if given.get(name) is not None]


def random_part(secret: str) -> str:
    """Return a SECRET_KEY without the prefix that ``startproject`` writes, which adds nothing to its strength."""
    return secret.removeprefix(INSECURE)


def _cache(name: str) -> Any:
    from django.core.cache import InvalidCacheBackendError, caches  # noqa: PLC0415 - only for this setting

    try:
        return caches[name]
    except InvalidCacheBackendError:
        known = ", ".join(map(repr, settings.CACHES))
        raise InvalidRequest("BACKJOB['CACHE']", f"must be the name of one of CACHES: {known}") from None


def _imported(name: str, dotted: object) -> Callable[[Any], Any] | None:
    if dotted is None or callable(dotted):
        return dotted
    if not isinstance(dotted, str):
        raise InvalidRequest(f"BACKJOB[{name!r}]", "must be the dotted path of a function")
    try:
        found: Callable[[Any], Any] = import_string(dotted)
    except ImportError as error:
        raise InvalidRequest(f"BACKJOB[{name!r}]", str(error)) from None
    return found


jobs: Final = BackJob()
"""The site's background jobs."""


def engine() -> DjangoEngine:
    """Return the engine of `jobs`, made at the first use. Raises `InvalidRequest` for a setting, and `StoreError`."""
    return jobs._engine  # noqa: SLF001
