"""A job and pages that write to the same session, with every engine and every way to write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from django.http import HttpRequest
from django.test import override_settings

from backjob.django.sessions import merge_session_changes

pytestmark = pytest.mark.usefixtures("database")

BEFORE = {"kept": 1, "changed": [1], "removed": 1}


@pytest.fixture(params=["db", "cached_db", "cache", "file"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """An engine's class of sessions."""
    name = f"django.contrib.sessions.backends.{request.param}"
    with override_settings(SESSION_ENGINE=name, SESSION_FILE_PATH=str(tmp_path)):
        yield import_module(name).SessionStore


@pytest.fixture
def key(engine: Any) -> str:
    """The key of a session with some values."""
    session = engine()
    session.update(BEFORE)
    session.create()
    session.update(BEFORE)
    session.save()
    return str(session.session_key)


def job_session(engine: Any, key: str | None, earlier: Callable[[Any], object] = bool) -> Any:
    """The session of a job, which a middleware has used before the view."""
    request: Any = HttpRequest()
    request.session = session = engine(key)
    earlier(session)
    merge_session_changes(request)
    return session


def page_writes(engine: Any, key: str, **values: Any) -> None:
    session = engine(key)
    session.update(values)
    session.save()


def stored(engine: Any, key: str) -> dict[str, Any]:
    return dict(engine(key).items())


EARLIER = [bool, lambda session: session.get("kept"), lambda session: session.update({"mine": 0})]


@pytest.mark.parametrize("earlier", EARLIER, ids=["untouched", "read", "written"])
def test_changes_of_the_job_and_of_pages_both_stay(engine: Any, key: str, earlier: Callable[[Any], object]) -> None:
    session = job_session(engine, key, earlier)
    assert session["kept"] == 1
    page_writes(engine, key, page=1, kept=2, changed="by the page")
    session["mine"] = 1
    session["changed"].append(2)
    del session["removed"]
    session.save()
    assert stored(engine, key) == {"kept": 2, "changed": [1, 2], "page": 1, "mine": 1}
    page_writes(engine, key, page=2, mine=3)
    session["again"] = 1
    session.save()
    assert stored(engine, key) == {"kept": 2, "changed": [1, 2], "page": 2, "mine": 3, "again": 1}


def test_saving_an_unchanged_session_keeps_changes_of_pages(engine: Any, key: str) -> None:
    session = job_session(engine, key)
    assert session["kept"] == 1
    page_writes(engine, key, kept=2)
    session.save()
    assert stored(engine, key) == {**BEFORE, "kept": 2}


def test_a_coroutine_keeps_changes_of_pages_too(engine: Any, key: str) -> None:
    session = job_session(engine, key)

    async def action() -> None:
        assert await session.aget("kept") == 1
        await asyncio.to_thread(page_writes, engine, key, kept=2)
        await session.aset("mine", 1)
        await session.asave()

    asyncio.run(action())
    assert stored(engine, key) == {**BEFORE, "kept": 2, "mine": 1}


def test_a_session_that_has_ended_meanwhile_is_not_written_again(engine: Any, key: str) -> None:
    session = job_session(engine, key)
    session["mine"] = 1
    engine(key).delete()
    for _ in range(2):
        session.save()
    assert not engine().exists(key)
    assert session.session_key is None


def test_a_session_that_the_job_clears_is_empty(engine: Any, key: str) -> None:
    session = job_session(engine, key)
    session.clear()
    session["mine"] = 1
    session.save()
    assert stored(engine, key) == {"mine": 1}


def test_a_session_with_a_new_key_keeps_all_values(engine: Any, key: str) -> None:
    session = job_session(engine, key)
    session["mine"] = 1
    session.cycle_key()
    session.save()
    assert session.session_key != key
    assert stored(engine, session.session_key) == {**BEFORE, "mine": 1}
    assert not engine().exists(key)


def test_a_new_session_is_created_as_usual(engine: Any) -> None:
    session = job_session(engine, None)
    session["mine"] = 1
    session.save()
    assert stored(engine, session.session_key) == {"mine": 1}


@pytest.mark.parametrize("new", [True, False], ids=["new", "under a new key"])
def test_a_value_removed_from_a_new_session_stays_removed(engine: Any, key: str, new: bool) -> None:
    session = job_session(engine, None if new else key)
    session["mine"] = 1
    session.save() if new else session.cycle_key()
    del session["mine"]
    session.save()
    assert "mine" not in stored(engine, session.session_key)


def test_a_login_after_the_end_of_the_session_creates_another(engine: Any, key: str) -> None:
    session = job_session(engine, key)
    session["mine"] = 1
    engine(key).delete()
    session.save()
    session["mine"] = 2
    session.create()
    session.save()
    assert session.session_key not in (None, key)
    assert stored(engine, session.session_key)["mine"] == 2


def test_a_session_that_ends_during_the_save_is_no_error(engine: Any, key: str) -> None:
    loads = iter(["for the job", "for its changes"])

    def end_at_the_second_load(session: Any) -> None:
        load = session.load

        def loaded() -> dict[str, Any]:
            found: dict[str, Any] = load()
            if next(loads) == "for its changes":
                engine(key).delete()
            return found

        session.load = loaded

    session = job_session(engine, key, end_at_the_second_load)
    session["mine"] = 1
    session.save()
    session.save()
    assert not engine().exists(key)


def test_a_session_of_another_library_is_not_touched() -> None:
    request: Any = HttpRequest()
    request.session = {"mine": 1}
    merge_session_changes(request)
    assert request.session == {"mine": 1}


def test_a_site_without_sessions_works() -> None:
    request = HttpRequest()
    merge_session_changes(request)
    assert not hasattr(request, "session")
