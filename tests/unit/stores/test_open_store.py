"""`open_store`: which URL opens which store, and which it refuses."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backjob.errors import InvalidRequest, StoreUnusable
from backjob.model import Draft, Request
from backjob.stores import open_store
from backjob.stores.memory import MemoryStore
from backjob.stores.sqlite import SQLiteStore
from backjob.testing import FakeClock


def draft() -> Draft:
    return Draft(id="job", request=Request("GET", "/work"))


@pytest.mark.parametrize("url", ["memory:", "memory://", "MEMORY:"])
def test_memory_opens_a_store_in_memory(url: str) -> None:
    assert isinstance(open_store(url), MemoryStore)


def test_three_slashes_mean_relative_and_four_mean_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for url, file in (
        ("sqlite:///jobs.db", "jobs.db"),
        ("sqlite:///sub/jobs.db", "sub/jobs.db"),
        (f"sqlite:///{tmp_path}/absolute.db", "absolute.db"),
        ("sqlite:///with%20space%3F.db", "with space?.db"),
    ):
        store = open_store(url)
        assert isinstance(store, SQLiteStore)
        assert (tmp_path / file).is_file()
        store.close()


def test_options_are_the_constructors_arguments(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    url = f"sqlite:///{path}?durability=power&table_name=work&busy_timeout=0.5&create_table=no"
    store = open_store(url)
    assert isinstance(store, SQLiteStore)
    assert not path.exists()
    with pytest.raises(StoreUnusable):
        store.get("job")
    open_store(url.replace("=no", "=yes")).close()
    assert store.get("job") is None
    assert store._connections.read("PRAGMA synchronous") == [(2,)]
    assert store._connections.read("PRAGMA busy_timeout") == [(500,)]
    assert store._connections.read("SELECT count(*) FROM work") == [(0,)]
    store.close()


@pytest.mark.parametrize("url", ["memory:", "sqlite:///{}/jobs.db"])
def test_the_store_uses_the_given_clock(url: str, tmp_path: Path) -> None:
    clock = FakeClock(datetime(2040, 1, 2, 3, 4, 5, 6, tzinfo=UTC))
    store = open_store(url.format(tmp_path), clock=clock)
    assert store.create(draft()).created_time == clock.now()
    store.close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "expected a URL"),
        ("jobs.db", "expected a URL"),
        ("oracle://root:secret@host/db", "'oracle'; known schemes: cache, "),
        ("sqlite:", "three slashes"),
        ("sqlite:jobs.db", "three slashes"),
        ("sqlite://jobs.db", "three slashes"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", '"memory:"'),
        ("sqlite:///jobs.db?table=x", "no option 'table'; known options: busy_timeout, create_table, durability"),
        ("sqlite:///jobs.db?create_table=perhaps", "yes or no"),
        ("sqlite:///jobs.db?busy_timeout=long", "busy_timeout='long'"),
        ("sqlite:///jobs.db?create_table", "not a URL"),
        ("sqlite:///jobs.db?table_name=a&table_name=b", "twice"),
        ("sqlite:///jobs.db#1", "%23"),
        ("memory:jobs", "has no path"),
        ("memory:?durability=power", "no option 'durability'; known options: none"),
        ("sqlite://[/jobs.db", "not a URL"),
    ],
)
def test_an_invalid_url_is_refused(url: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidRequest) as caught:
        open_store(url)
    assert caught.value.argument == "store"
    assert reason in caught.value.reason
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "argument"), [("durability=total", "durability"), ("table_name=1", "table_name")]
)  # fmt: skip
def test_an_option_that_the_constructor_refuses_is_named(option: str, argument: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        open_store(f"sqlite:///{tmp_path}/jobs.db?{option}")
    assert caught.value.argument == argument


def in_fresh_interpreter(program: str) -> str:
    """The output of a program."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_a_driver_is_imported_only_when_its_store_is_opened() -> None:
    program = (
        "import sys; from backjob.stores import open_store; open_store('memory:'); print('sqlite3' in sys.modules)"
    )
    assert in_fresh_interpreter(program) == "False"
