"""The engine of a Django site: transactions, connections of threads, logged-in users, tasks, reversed URLs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from http import HTTPStatus
from typing import Any, Final, ParamSpec, TypeVar

from asgiref.sync import async_to_sync, sync_to_async
from attrs import evolve
from django.conf import settings
from django.db import connections, transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import NoReverseMatch, get_script_prefix, reverse

from backjob.django.connections import alias_for, close_idle
from backjob.django.files import StorageFiles, files_beside_database, has_storage
from backjob.django.owners import log_in_owner
from backjob.django.querysets import KeyedQuerySet
from backjob.django.requests import DjangoServing
from backjob.django.signals import job_ended, send_job_ended
from backjob.django.task_record import TaskRecord
from backjob.errors import BackJobError, InvalidRequest
from backjob.http.serving import serving
from backjob.http.targets import local_path, path_below
from backjob.jobs import Engine
from backjob.jobs.cursors import Keyed
from backjob.lifecycle import End
from backjob.model import Job, JobState, Status
from backjob.overriding import override
from backjob.process import in_event_loop
from backjob.protocols import Capability, Files, Store, lacks

_P = ParamSpec("_P")
_R = TypeVar("_R")

_NOT_FOUND: Final = "The requested resource was not found on this server."
"""In Django's own page, also for an `Http404` with a message."""


def current_request() -> HttpRequest | None:
    """Return Django's request that is being served, or None."""
    here = serving.get()
    return here.django if isinstance(here, DjangoServing) else None


def database_of(store: Store) -> str | None:
    """Return the alias of the Django database that keeps the jobs, also behind a cache; None for any other store."""
    while (inner := getattr(store, "store", None)) is not None:
        store = inner
    using: str | None = getattr(store, "using", None)
    return using


def _reversed(name: str, *args: str) -> str:
    try:
        return local_path(reverse(name, args=args))
    except NoReverseMatch:
        raise InvalidRequest(
            "urls",
            'there are no status routes: add path("backjob/", include("backjob.django.urls")) to the URLconf',
        ) from None


def _is_staff(request: Any, *permissions: str) -> bool:
    user = getattr(request, "user", None)
    if user is None or not (user.is_active and user.is_staff):
        return False
    return bool(user.has_perms([f"backjob.{name}" for name in permissions]))


def _sender(job: Job) -> type:
    # The receiver for tasks is connected to this sender only, so that it costs other jobs nothing.
    return DjangoEngine if TaskRecord.of(job.result) is None else TaskRecord


class DjangoEngine(Engine):
    """The engine of the Django site."""

    testing_module = "backjob.django.testing"

    @override
    def base_url_setting(self, *, unix: bool = False) -> str:
        connect_to = ', "CONNECT_TO": "unix:/path/of/the/socket"' if unix else ""
        return f'set the base URL: BACKJOB = {{"BASE_URL": "https://your.site"{connect_to}}}'

    @override
    def default_url(self) -> str:
        hosts = [host.removeprefix(".") for host in settings.ALLOWED_HOSTS if "*" not in host]
        return f"http://{hosts[0]}" if hosts else super().default_url()

    @override
    def owner_of(self, request: Any) -> str | None:
        if self.options.owner is not None:
            return super().owner_of(request)
        user = getattr(request, "user", None)
        return str(user.pk) if user is not None and user.is_authenticated else None

    @override
    def may_see_all(self, request: Any) -> bool:
        if self.options.may_see_all is not None:
            return super().may_see_all(request)
        return _is_staff(request, "view_job")

    @override
    def may_manage_all(self, request: Any) -> bool:
        if self.options.may_manage_all is not None:
            return super().may_manage_all(request)
        return _is_staff(request, "view_job", "cancel_job", "delete_job", "run_again_job")

    @override
    def wait_for(self, awaitable: Awaitable[_R]) -> _R:
        async def result() -> _R:
            return await awaitable

        if in_event_loop():
            return super().wait_for(awaitable)  # raises the error
        return async_to_sync(result)()

    @override
    def current_owner(self) -> str | None:
        request = current_request()
        return None if request is None else self.owner_of(request)

    @override
    def run_as_owner(self, job: Job, request: Any) -> None:
        if self.options.owner is None:  # owners are primary keys
            log_in_owner(request, job.owner)

    @override
    def default_files(self) -> Files | None:
        if Capability.RETENTION in lacks(self.options.store):
            return None
        if has_storage():
            return StorageFiles()
        alias = database_of(self.options.store)
        return super().default_files() if alias is None else files_beside_database(alias)

    @override
    def is_stock_message(self, status: int, message: str) -> bool:
        return status == HTTPStatus.NOT_FOUND and message == _NOT_FOUND

    @override
    def session_cookie(self) -> str:
        return str(settings.SESSION_COOKIE_NAME)

    @override
    def status_url(self, job_id: str, cancel: bool = False, absolute: bool = False) -> str:
        if absolute:
            return super().status_url(job_id, cancel, absolute)
        return _reversed("backjob:status", self.reference(job_id, "cancel" if cancel else "view"))

    @override
    def public_mount(self) -> str | None:
        url = self.options.public_url
        if url is None:
            return None
        path = _reversed("backjob:list").rstrip("/")
        below = path_below(path, get_script_prefix().rstrip("/"))
        return url + (path if below is None else below)

    @override
    def state(self, job: Job) -> JobState:
        state, record = super().state(job), TaskRecord.of(job.result)
        return state if record is None else evolve(state, result=record.return_value)

    @override
    def complete_end(self, job: Job, end: End) -> End:
        record = TaskRecord.of(job.result)
        if record is None or end.status is not Status.COMPLETED:
            return end
        return evolve(end, result=evolve(record, return_value=end.result).as_json())

    @override
    def has_receivers(self, job: Job) -> bool:
        return super().has_receivers(job) or job_ended.has_listeners(_sender(job))

    @override
    def call_back(self, job: Job) -> None:
        super().call_back(job)
        send_job_ended(_sender(job), job, self.state)

    @override
    def in_transaction(self) -> str | None:
        for connection in connections.all(initialized_only=True):
            # The transaction of a `TestCase` is the test's: the code under test does not see it.
            blocks: list[Any] = connection.atomic_blocks
            if not all(block._from_testcase for block in blocks):  # noqa: SLF001 - as Django itself asks
                return connection.alias
        return None

    @override
    def keyed(self, rows: object) -> Keyed | None:
        return KeyedQuerySet(rows) if isinstance(rows, QuerySet) else None

    @override
    def release(self) -> None:
        close_idle()  # Django closes a thread's connections at the end of a request, and the monitor's thread has none

    @override
    def offload(self, function: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> Awaitable[_R]:
        return sync_to_async(function)(*args, **kwargs)

    @override
    def when_committed(self, job_id: str, action: Callable[[], None], *, is_new: bool = False) -> None:
        using = database_of(self.store)
        postponed = _postponed.get()
        if using is not None:
            transaction.on_commit(action, using=alias_for(using, job_id))
        elif is_new and postponed is not None:
            postponed.append((job_id, action))
        else:
            action()

    @contextmanager
    def delivered_after(self) -> Iterator[None]:
        """Deliver the jobs that the block starts once it ends. If the block raises, they never exist.

        In a store outside of Django's transactions they exist, cancelled.
        """
        using = database_of(self.store)
        if using is not None:
            with transaction.atomic(using=using):
                yield
            return
        outer = _postponed.get()
        postponed: list[tuple[str, Callable[[], None]]] = []
        token = _postponed.set(postponed)
        try:
            yield
        except BaseException:
            _postponed.reset(token)
            for job_id, _ in postponed:
                with suppress(BackJobError):  # the error from the block matters more
                    self.cancel(job_id)
            raise
        _postponed.reset(token)
        if outer is not None:
            outer.extend(postponed)
            return
        for _, action in postponed:
            action()


_postponed: ContextVar[list[tuple[str, Callable[[], None]]] | None] = ContextVar(
    "backjob_django_postponed", default=None
)
