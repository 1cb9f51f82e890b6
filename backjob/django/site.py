"""``jobs``: the site's background jobs, set up by the setting ``BACKJOB``, at the first use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import transaction
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.module_loading import import_string
from typing_extensions import Unpack, override

from backjob.django.connections import aside, close_idle
from backjob.django.requests import DjangoServing
from backjob.django.signals import send_job_ended, set_on_end
from backjob.django.task_record import TaskRecord, completed_record, shown
from backjob.errors import BackJobError, InvalidRequest
from backjob.http.origins import URL, is_url
from backjob.http.serving import serving
from backjob.jobs import StartOptions
from backjob.jobs import facade as core
from backjob.lifecycle import End
from backjob.model import Job, JobState
from backjob.settings import Settings

if TYPE_CHECKING:
    from backjob.protocols import Store

__all__ = ["INSECURE", "BackJob", "database_of", "jobs", "random_part"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_OWN: Final = ("DATABASE", "OWNER", "ON_END")
"""Settings that Django has beside those that are the same everywhere."""


class _BackJobWithTasks(core.BackJob):
    """What a job that is a task of the Tasks framework has of its own."""

    @override
    def _state(self, job: Job) -> JobState:
        return shown(super()._state(job))

    @override
    def _release(self) -> None:
        close_idle()  # each thread has its own, and no request's end closes those of the monitor

    @override
    def _as_kept(self, job: Job, end: End) -> End:
        return completed_record(job, end)

    @override
    def _announce(self, job: Job) -> None:
        super()._announce(job)
        # The receiver for tasks is connected to this sender alone, so that it costs other jobs nothing.
        sender = BackJob if TaskRecord.of(job.result) is None else TaskRecord
        send_job_ended(sender, job, self._state)


class BackJob(_BackJobWithTasks):
    """The background jobs of this Django site: `backjob.BackJob`, set up by the dict ``BACKJOB`` in the settings.

    Beside the settings that are the same everywhere, ``DATABASE`` is the alias of the database that keeps the jobs,
    ``OWNER`` the dotted path of a function ``owner(request) -> str | None`` (by default the signed-in user's primary
    key), and ``ON_END`` that of one to be called with the state of each job that ends. ``CACHE`` is the name of one of
    ``CACHES``, put in front. The key is derived from ``SECRET_KEY`` and ``SECRET_KEY_FALLBACKS``.
    """

    def __init__(self) -> None:
        # What the core's constructor sets is set in `of()`, and found through __getattr__.
        self._building = threading.RLock()
        self._built: core.BackJob | None = None

    @override
    def of(self, application: object = None) -> core.BackJob:
        """The core's `BackJob`, made at the first use. Raises `InvalidRequest` for a setting, and `StoreError`."""
        built = self._built
        if built is None:
            with self._building:
                built = self._built = self._built or self._build()
        return built

    @property
    def built(self) -> core.BackJob | None:
        """The core's `BackJob`, if anything has needed it yet."""
        return self._built

    def reset(self) -> None:
        """Let go of everything; the settings are read anew at the next use. For settings that a test overrides."""
        with self._building:
            built, self._built = self._built, None
        if built is not None:
            built.close()

    if not TYPE_CHECKING:  # a misspelled name stays an error of types

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__") or name in ("_building", "_built"):
                raise AttributeError(name)
            return getattr(self.of(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("_building", "_built"):
            super().__setattr__(name, value)
        else:
            setattr(self.of(), name, value)

    # --- what Django has its own manner of --------------------------------------------------------------------------

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
        """Accept a job: `backjob.BackJob.start`, to which a view's name may be given too.

        ``path`` is a path if it begins with a slash, or a URL of this site; else it is the name of a view, to be reversed with ``args`` or
        ``kwargs``. Within ``atomic()`` the job is one when the transaction commits: it is delivered then, and if the
        transaction is undone, there is no job. Raises `InvalidRequest` ("path") also for a name without a route.
        """
        if isinstance(path, str) and not path.startswith("/") and not is_url(path):
            path = self._path_to(path, args, kwargs)
        elif args is not None or kwargs is not None:
            raise InvalidRequest("path", "args and kwargs go with a view's name, and this is a path")
        return super().start(path, query, **options)

    def _path_to(self, name: str, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None) -> str:
        try:
            path = reverse(name, args=args, kwargs=None if kwargs is None else dict(kwargs))
        except NoReverseMatch as error:
            raise InvalidRequest("path", str(error)) from None
        here = serving.get()
        # Below a mount it goes as a URL of this site, for the core to find out how much of it is on the wire.
        return path if here is None or not here.mount else f"{here.origin}{path}"

    @override
    def _when_committed(self, job_id: str, step: Callable[[], None], *, is_new: bool = False) -> None:
        using = database_of(self.store)
        held = _held.get()
        if using is not None:
            transaction.on_commit(step, using=aside(using, job_id))
        elif is_new and held is not None:
            held.append((job_id, step))
        else:
            step()

    @contextmanager
    def _delivered_after(self) -> Iterator[None]:
        """What is started within the block is delivered after it. If the block is left by an error there is no job.

        A store that is no part of Django's transactions keeps such a job, cancelled.
        """
        using = database_of(self.store)
        if using is not None:
            with transaction.atomic(using=using):
                yield
            return
        around = _held.get()
        held: list[tuple[str, Callable[[], None]]] = []
        token = _held.set(held)
        try:
            yield
        except BaseException:
            _held.reset(token)
            for job_id, _ in held:
                with suppress(BackJobError):  # what was raised within tells more
                    self.cancel(job_id)
            raise
        _held.reset(token)
        if around is not None:
            around.extend(held)
            return
        for _, step in held:
            step()

    @override
    def status_url(self, job_id: str, cancel: bool = False) -> str:
        """The path of the job's status, where ``backjob.django.urls`` are included; see `backjob.BackJob.status_url`."""
        reference = super().status_url(job_id, cancel).rpartition("/")[2]
        try:
            return reverse("backjob:status", args=[reference])
        except NoReverseMatch:
            raise InvalidRequest(
                "urls", 'the status routes are nowhere: path("backjob/", include("backjob.django.urls")) in the URLconf'
            ) from None

    @override
    def owner_of(self, request: Any) -> str | None:
        """The owner of a Django request: the answer of ``OWNER``, by default the signed-in user's primary key."""
        hook = self.of()._owner_hook  # noqa: SLF001 - a facade of it
        if hook is not None:
            return hook(request)
        user = getattr(request, "user", None)
        return str(user.pk) if user is not None and user.is_authenticated else None

    @override
    def current_owner(self) -> str | None:
        """The owner of the request being served, or None."""
        request = self.current_request()
        return None if request is None else self.owner_of(request)

    @staticmethod
    def current_request() -> HttpRequest | None:
        """Django's own request that is being served, or None outside of one."""
        here = serving.get()
        return here.django if isinstance(here, DjangoServing) else None

    @override
    def background_only(self, action: Callable[_P, _R]) -> Callable[_P, _R]:
        """A decorator: a view for verified worker requests alone, everybody else gets 403.

        It is left out of ATOMIC_REQUESTS: no transaction should last as long as a job does. A part that is to be one
        says so, by ``with transaction.atomic()``.
        """
        guarded: Callable[_P, _R] = transaction.non_atomic_requests(super().background_only(action))
        return guarded

    @override
    async def _offload(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Any:
        return await sync_to_async(function)(*arguments, **options)

    # --- setting up -------------------------------------------------------------------------------------------------

    def _build(self) -> core.BackJob:
        given = getattr(settings, "BACKJOB", {})
        if not isinstance(given, Mapping):
            raise InvalidRequest("BACKJOB", "a dict of settings is expected")
        own = {name: given.get(name) for name in _OWN}
        cache = given.get("CACHE")
        read = Settings.of({**given, "CACHE": _cache(cache)} if isinstance(cache, str) else given, beside=_OWN)
        if own["DATABASE"] is not None and read.store is not None:
            raise InvalidRequest("DATABASE", "jobs are kept in a database of Django's, or in the STORE, not in both")
        store: Store | None = None
        if read.store is None:
            from backjob.django.store import DjangoStore  # noqa: PLC0415 - models need the app registry

            store = DjangoStore(own["DATABASE"] or "default")
        built = read.build(
            _BackJobWithTasks,
            secret=random_part(settings.SECRET_KEY),
            secret_fallbacks=[random_part(one) for one in settings.SECRET_KEY_FALLBACKS],
            package="backjob.django",
            application=settings.ROOT_URLCONF,
            default_store=lambda: "",
            store=store,
            owner=_imported("OWNER", own["OWNER"]),
        )
        set_on_end(_imported("ON_END", own["ON_END"]))
        built.worker.owner = self
        return built


def random_part(secret: str) -> str:
    """A SECRET_KEY without the words that ``startproject`` puts before its random part: a check warns of them."""
    return secret.removeprefix(INSECURE)


def _cache(name: str) -> Any:
    from django.core.cache import InvalidCacheBackendError, caches  # noqa: PLC0415 - only who asks for it

    try:
        return caches[name]
    except InvalidCacheBackendError as error:
        raise InvalidRequest("BACKJOB['CACHE']", f"the name of one of CACHES is expected: {error}") from None


def database_of(store: Store) -> str | None:
    """The alias of the database that keeps the jobs, whatever stands in front of it; None if Django does not keep them."""
    using: str | None = getattr(getattr(store, "store", store), "using", None)
    return using


def _imported(name: str, dotted: object) -> Callable[[Any], Any] | None:
    if dotted is None or callable(dotted):
        return dotted
    if not isinstance(dotted, str):
        raise InvalidRequest(f"BACKJOB[{name!r}]", "the dotted path of a function is expected")
    try:
        found: Callable[[Any], Any] = import_string(dotted)
    except ImportError as error:
        raise InvalidRequest(f"BACKJOB[{name!r}]", str(error)) from None
    return found


_held: ContextVar[list[tuple[str, Callable[[], None]]] | None] = ContextVar("backjob_django_held", default=None)

INSECURE: Final = "django-insecure-"
"""What a SECRET_KEY begins with that was written into the settings file by ``startproject``."""

jobs: Final = BackJob()
"""The site's background jobs."""
