"""Slices on a Django site: querysets that continue by primary key, and transactions that a cursor must not outrun."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import Group, User
from django.db import connection, connections, models, transaction
from django.http import HttpRequest, HttpResponse
from django.test import TestCase, override_settings
from django.urls import include, path

from backjob import JobState, Status
from backjob.django import jobs, querysets
from backjob.django.site import engine
from backjob.django.testing import immediate
from backjob.errors import InvalidRequest
from backjob.jobs.slices import refuse_transaction
from backjob.worker.running import current

pytestmark = pytest.mark.usefixtures("database")

seen: list[Any] = []
rows: list[Callable[[], Any]] = []
SLICE = 3
"""Items in a slice: after each third one, the time is up."""


class ByUUID(models.Model):
    id: Any = models.UUIDField(primary_key=True, default=uuid.uuid4)

    class Meta:
        app_label = "slices"
        ordering = ("id",)


class ByText(models.Model):
    code: Any = models.CharField(primary_key=True, max_length=20)

    class Meta:
        app_label = "slices"
        ordering = ("-code",)


class Child(ByText):
    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        app_label = "slices"


class ByTwo(models.Model):
    pk = models.CompositePrimaryKey("tenant", "number")
    tenant: Any = models.IntegerField()
    number: Any = models.IntegerField()

    class Meta:
        app_label = "slices"


@pytest.fixture
def tables(database: str) -> Iterator[None]:
    made = [ByUUID, ByText, Child, ByTwo]
    with connection.schema_editor() as editor:
        for model in made:
            editor.create_model(model)
    yield
    with connection.schema_editor() as editor:
        for model in reversed(made):
            editor.delete_model(model)


def note(item: Any) -> None:
    seen.append(item)
    running = current.get()
    if running is not None and len(seen) % SLICE == 0:
        running.began -= 3600


def resume(request: HttpRequest) -> HttpResponse:
    for row in jobs.track(rows[0](), resume=True):
        note(row)
    return HttpResponse("")


async def resume_async(request: HttpRequest) -> HttpResponse:
    async for row in jobs.atrack(rows[0](), resume=True):
        note(row)
    return HttpResponse("")


def deactivate(request: HttpRequest) -> HttpResponse:
    for user in jobs.track(User.objects.filter(is_active=True), resume="each"):
        user.is_active = False
        user.save()
        note(user.username)
        bars.append(jobs.status(str(jobs.job_id)).progress)
    return HttpResponse("")


bars: list[int] = []


@transaction.atomic
def within_atomic(request: HttpRequest) -> HttpResponse:
    User.objects.create(username="never")
    call = request.GET["call"]
    if call == "track":
        list(jobs.track([1, 2], resume=True))
    elif call == "checkpoint":
        jobs.checkpoint(1)
    else:
        jobs.continue_later(1)
    return HttpResponse("")


def mistaken(request: HttpRequest) -> HttpResponse:
    """Save the cursor after each block; in the first attempt, once inside of one."""
    attempts.append((jobs.attempt, jobs.cursor))
    for number in range(int(str(jobs.cursor or 0)), 5):
        with transaction.atomic():
            User.objects.create(username=f"user {number}")
            if number == 3 and jobs.attempt == 1:
                getattr(jobs, request.GET["call"])(number + 1)
        jobs.checkpoint(number + 1)
    return HttpResponse("")


attempts: list[Any] = []


def around(request: HttpRequest) -> HttpResponse:
    """Save the cursor after each block."""
    for number in range(int(str(jobs.cursor or 0)), 5):
        with transaction.atomic():
            User.objects.create(username=f"user {number}")
        jobs.checkpoint(number + 1)
        if number == 2:
            jobs.continue_later()
    return HttpResponse("")


def plain(request: HttpRequest) -> HttpResponse:
    """With ATOMIC_REQUESTS."""
    User.objects.create(username="never")
    jobs.continue_later(1)


@transaction.non_atomic_requests
def not_atomic(request: HttpRequest) -> HttpResponse:
    if jobs.cursor is None:
        User.objects.create(username="first")
        jobs.continue_later(1)
    return HttpResponse("")


urlpatterns = [
    path("backjob/", include("backjob.django.urls")),
    path("resume", resume),
    path("resume-async", resume_async),
    path("deactivate", deactivate),
    path("within-atomic", within_atomic),
    path("mistaken", mistaken),
    path("around", around),
    path("plain", plain),
    path("not-atomic", not_atomic),
]


@pytest.fixture(autouse=True)
def site() -> Iterator[None]:
    seen.clear()
    bars.clear()
    attempts.clear()
    with override_settings(ROOT_URLCONF=__name__, BACKJOB={**settings.BACKJOB, "BASE_URL": "http://127.0.0.1:1"}):
        jobs.reset()
        yield
        Group.objects.all().delete()


def run(view: str, **query: Any) -> JobState:
    with immediate():
        return jobs.status(jobs.start(f"/{view}", query, as_current_user=False))


def resumed(make: Callable[[], Any], view: str = "resume") -> JobState:
    rows[:] = [make]
    return run(view)


both = pytest.mark.parametrize("view", ["resume", "resume-async"])


@both
def test_a_queryset_continues_by_its_primary_key(view: str) -> None:
    Group.objects.bulk_create(Group(name=f"group {number}") for number in range(10))
    state = resumed(Group.objects.all, view)
    assert (state.status, state.progress) == (Status.COMPLETED, 100), state
    job = engine().find(state.id)
    assert job is not None
    assert job.run == 4
    assert [row.name for row in seen] == [f"group {number}" for number in range(10)]


@both
@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("model", [ByUUID, ByText, Child, ByTwo])
def test_keys_of_every_type_continue(view: str, model: Any) -> None:
    if model is ByTwo:
        ByTwo.objects.bulk_create(ByTwo(tenant=number % 2, number=number) for number in range(8))
    elif model is ByUUID:
        ByUUID.objects.bulk_create(ByUUID() for _ in range(8))
    else:
        for number in range(8):
            model.objects.create(code=f"№ {number}")
    state = resumed(model.objects.all, view)
    assert state.status is Status.COMPLETED, state.status_text
    assert seen == list(model.objects.order_by("pk"))


def test_descending_keys_continue_too() -> None:
    Group.objects.bulk_create(Group(name=f"group {number}") for number in range(7))
    assert resumed(lambda: Group.objects.order_by("-pk")).status is Status.COMPLETED
    assert [row.name for row in seen] == [f"group {number}" for number in reversed(range(7))]


def test_more_rows_than_a_page_are_read_page_by_page_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(querysets, "_PAGE", 20)
    Group.objects.bulk_create(Group(name=f"group {number}") for number in range(45))
    rows[:] = [Group.objects.all]
    state = run("resume")
    assert (state.status, len(seen)) == (Status.COMPLETED, 45)


def test_a_filter_that_shrinks_as_the_action_works_loses_no_row_and_the_bar_does_not_go_back() -> None:
    User.objects.bulk_create(User(username=f"user {number}") for number in range(10))
    state = run("deactivate")
    assert state.status is Status.COMPLETED, state.status_text
    assert seen == [f"user {number}" for number in range(10)]
    assert not User.objects.filter(is_active=True).exists()
    assert bars == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Group.objects.values("name"), "values"),
        (lambda: Group.objects.values_list("name", flat=True), "values"),
        (lambda: Group.objects.all()[:5], "slice"),
        (lambda: Group.objects.order_by("name"), "'name'"),
        (lambda: Group.objects.order_by("name", "pk"), "order_by"),
        (lambda: Group.objects.order_by("?"), "order_by"),
        (lambda: Group.objects.order_by("pk").reverse(), "reverse"),
        (lambda: Group.objects.all().union(Group.objects.all()), "union"),
    ],
)
@both
def test_a_queryset_that_cannot_be_read_by_its_key_is_refused(view: str, make: Callable[[], Any], word: str) -> None:
    Group.objects.create(name="one")
    state = resumed(make, view)
    assert state.status is Status.FAILED
    assert word in state.status_text
    assert seen == []


@pytest.mark.parametrize("call", ["track", "checkpoint", "continue_later"])
def test_inside_of_atomic_a_cursor_is_refused_and_the_transaction_rolled_back(call: str) -> None:
    state = run("within-atomic", call=call)
    assert state.status is Status.FAILED
    assert "non_atomic_requests" in state.status_text
    assert "'default'" in state.status_text
    assert not User.objects.exists()


@pytest.mark.parametrize("call", ["checkpoint", "continue_later"])
def test_a_cursor_that_was_refused_inside_of_atomic_loses_no_row(call: str) -> None:
    with immediate():
        state = jobs.status(jobs.start("/mistaken", {"call": call}, as_current_user=False, retries=1, retry_delay=0))
    assert state.status is Status.COMPLETED, state.status_text
    assert attempts == [(1, None), (2, 3)]
    assert [user.username for user in User.objects.order_by("pk")] == [f"user {number}" for number in range(5)]


def test_after_each_atomic_block_a_cursor_is_saved() -> None:
    state = run("around")
    assert state.status is Status.COMPLETED, state.status_text
    assert User.objects.count() == 5


def test_with_atomic_requests_the_view_must_be_decorated() -> None:
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    try:
        refused, done = run("plain"), run("not-atomic")
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False
    assert (refused.status, done.status) == (Status.FAILED, Status.COMPLETED)
    assert "non_atomic_requests" in refused.status_text
    assert [user.username for user in User.objects.all()] == ["first"]


def test_the_transaction_of_a_testcase_is_none_for_the_code_under_test() -> None:
    found: list[str | None] = []

    class Case(TestCase):
        def test(self) -> None:
            found.append(engine().in_transaction())
            with transaction.atomic():
                found.append(engine().in_transaction())

    result = Case("test").run()
    assert result is not None
    assert result.wasSuccessful()
    assert found == [None, "default"]


def test_asking_for_a_transaction_opens_no_connection() -> None:
    assert asyncio.run(_in_event_loop()) is None


async def _in_event_loop() -> str | None:
    return engine().in_transaction()


def test_a_transaction_of_any_database_counts(tmp_path: Path) -> None:
    connections.databases["other"] = {**connections.databases["default"], "NAME": str(tmp_path / "other.db")}
    try:
        with transaction.atomic(using="other"), pytest.raises(InvalidRequest, match="'other'"):
            refuse_transaction(engine(), "cursor")
        refuse_transaction(engine(), "cursor")
    finally:
        connections["other"].close()
        del connections["other"], connections.databases["other"]
