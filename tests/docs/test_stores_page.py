"""docs/stores.md: its URLs open the stores in the table, its examples and commands run, its privileges are enough."""

from __future__ import annotations

import ast
import inspect
import re
import secrets
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Final
from urllib.parse import quote

import pytest

pytest.importorskip("sqlalchemy", reason="the page's stores need SQLAlchemy: pip install 'backjob[sqlalchemy]'")
pytest.importorskip("redis", reason="the page's stores need redis-py: pip install 'backjob[redis]'")
pytest.importorskip("cachelib", reason="the page's examples need cachelib: pip install cachelib")

from redis.cluster import RedisCluster
from sqlalchemy import URL, Connection, create_engine, make_url, text
from sqlalchemy.orm import DeclarativeBase

from backjob import stores
from backjob.cli import main
from backjob.errors import StoreUnavailable
from backjob.lifecycle import cancelled, claimed, completed, ended
from backjob.model import Draft, Expect, Query, Report, Request, Status
from backjob.protocols import Store
from backjob.stores import caches, open_store
from backjob.stores.cache import CacheStore
from backjob.stores.cached import CachedStore
from backjob.stores.memory import MemoryStore
from backjob.stores.redis import RedisStore
from backjob.stores.sql import SQLStore
from backjob.stores.sqlite import SQLiteStore
from tests.docs.pages import ROOT, blocks
from tests.private_servers import REDIS as REDIS_PROGRAM
from tests.private_servers import Templates, private_server
from tests.services import MARIADB, POSTGRES, own_name

PAGE: Final = ROOT / "docs" / "stores.md"
CLASSES: Final = (MemoryStore, SQLiteStore, SQLStore, RedisStore, CacheStore, CachedStore)
DIALECTS: Final = ("postgresql", "mariadb", "mysql", "sqlite")
PRIVILEGES: Final = "SELECT, INSERT, UPDATE, DELETE"


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The rows of the tables under a heading, without header rows."""
    section = page().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [
        row for row, after in zip(cells, [*cells[1:], None], strict=True) if not _is_rule(row) and not _is_rule(after)
    ]


def _is_rule(row: list[str] | None) -> bool:
    return row is not None and all(set(cell) == {"-"} for cell in row)


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def unreachable(code: str) -> str:
    """Replace hosts by an address that refuses connections at once."""
    return re.sub(r"(?:db|cache)\.internal(?::\d+)?", "127.0.0.1:9", code)


# --- URLs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def module_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    from cachelib import RedisCache

    monkeypatch.setitem(sys.modules, "shop", ModuleType("shop"))
    module: Any = ModuleType("shop.caches")
    module.main = RedisCache("127.0.0.1", port=9)
    monkeypatch.setitem(sys.modules, "shop.caches", module)


@pytest.mark.parametrize("row", rows("By a URL"), ids=lambda row: quoted(row[0])[0].partition(":")[0])
@pytest.mark.usefixtures("module_of_the_page")
def test_a_url_opens_the_store_in_the_table(row: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url, opens, options = row
    [example] = quoted(url)
    expected: type[Any] = next(cls for cls in CLASSES if cls.__name__ == quoted(opens)[0])
    with closing(open_store(unreachable(example))) as store:
        assert type(store) is expected
    if options != "the same":
        names = [name for name in quoted(options) if "=" not in name]
        arguments = list(inspect.signature(expected).parameters)[1:]  # the first is the URL itself
        assert sorted(names) == sorted(set(arguments) - {"clock"})


def test_every_scheme_in_the_table_is_known() -> None:
    named = {
        found.partition(":")[0] for row in rows("By a URL") for found in quoted(f"{row[0]} {row[1]}") if ":" in found
    }
    assert len(named) >= 12
    assert named <= stores._MODULES.keys()


# --- examples and commands -------------------------------------------------------------------------------------------


def test_the_examples_run_from_top_to_bottom(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Base(DeclarativeBase):
        pass

    def init(self: Any, **options: Any) -> None:
        assert options == {"host": "127.0.0.1:9"}

    monkeypatch.setattr(RedisCluster, "__init__", init)
    monkeypatch.setattr(RedisCluster, "__del__", lambda self: None)
    monkeypatch.setattr(RedisCluster, "get_encoder", lambda self: SimpleNamespace(decode_responses=False))
    monkeypatch.chdir(tmp_path)
    done: list[str] = []
    known: dict[str, Any] = {"Base": Base, "Path": Path, "op": SimpleNamespace(execute=done.append)}
    seen = []
    for block in blocks(PAGE):
        if block.language == "python":
            exec(compile(ast.parse(unreachable(block.code)), str(block), "exec"), known)
            seen.append(type(known.get("store")))
    assert [cls for cls in CLASSES if cls not in seen] == [MemoryStore, SQLiteStore]
    assert {table.schema for table in known["target_metadata"][1].tables.values()} == {"jobs"}

    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "jobs.sql").write_text(SQLiteStore.schema())
    known["upgrade"]()
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        for statement in done:
            connection.execute(statement)
    with closing(SQLiteStore(tmp_path / "jobs.db", create_table=False)) as store:
        use(store)


def schema(dialect: str) -> str:
    return SQLiteStore.schema() if dialect == "sqlite" else SQLStore.schema(dialect)


def commands() -> Iterator[list[str]]:
    """The page's ``backjob`` commands, with every alternative that a comment names."""
    for block in blocks(PAGE):
        for line in block.code.splitlines() if block.language == "sh" else ():
            command, _, comment = line.partition("#")
            if command.startswith("backjob "):
                words = command.partition(">")[0].split()[1:]
                yield words
                for other in re.findall(r"\w+", comment.removeprefix(" or ")):
                    yield [*words[:-1], other]


def test_the_commands_print_sql(capsys: pytest.CaptureFixture[str]) -> None:
    printed = {}
    for words in commands():
        assert main(words) == 0
        printed[words[-1]] = capsys.readouterr().out
    assert {dialect: sql.strip() for dialect, sql in printed.items()} == {
        dialect: schema(dialect).strip() for dialect in DIALECTS
    }


def test_a_printed_schema_splits_into_statements() -> None:
    for dialect in DIALECTS:
        statements = [part for part in schema(dialect).split(";\n") if part.strip()]
        assert len(statements) > 2
        assert all(part.lstrip().startswith("CREATE ") for part in statements)


# --- privileges ----------------------------------------------------------------------------------------------------------


def use(store: Store) -> None:
    """Call every method, so that every privilege is needed; leave nothing behind."""
    request = Request("POST", "/work", body=b"body")
    store.create(Draft(id="job", request=request), "key")
    assert store.create(Draft(id="other", request=request), "key").id == "job"
    store.create(Draft(id="waiting", request=request))
    assert store.change("job", *claimed("token", 1, 18)) is not None
    assert store.report("job", "token", Report(progress=5, output="output"))
    assert store.beat({"job": "token", "gone": "token"}, 18, frozenset({"job"})) == {"gone"}
    assert store.output("job").text == "output"
    assert [job.id for job in store.take_due("lessee", 5, 5)] == ["waiting"]
    assert store.change("job", Expect(token="token"), ended(completed("done"))) is not None
    assert len(store.find(Query(status=Status.COMPLETED))) == 1
    assert store.find(Query(overdue=True)) == []
    assert store.change("waiting", Expect(), ended(cancelled())) is not None
    assert store.purge(0.000_001, 0.000_001) == 2


@contextmanager
def administrator(url: URL) -> Iterator[Connection]:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


@pytest.mark.services
def test_the_four_privileges_are_enough_in_postgresql() -> None:
    url, name = make_url(POSTGRES.require()), own_name()
    with administrator(url) as connection:
        try:
            for statement in (
                f"CREATE ROLE {name} LOGIN",
                f"CREATE SCHEMA {name}",
                *SQLStore.schema("postgresql", schema=name).split(";\n"),
                f"GRANT USAGE ON SCHEMA {name} TO {name}",
                f"GRANT {PRIVILEGES} ON {name}.backjob, {name}.backjob_output TO {name}",
            ):
                if statement.strip():
                    connection.execute(text(statement))
            for create_table in (False, True):
                with closing(SQLStore(url.set(username=name), schema=name, create_table=create_table)) as store:
                    use(store)
        finally:
            connection.execute(text(f"DROP SCHEMA IF EXISTS {name} CASCADE"))
            connection.execute(text(f"DROP ROLE IF EXISTS {name}"))


@pytest.mark.services
def test_the_privileges_are_enough_in_mariadb() -> None:
    url, name = make_url(MARIADB.require()), own_name()
    user, password = name[-16:], secrets.token_hex()
    database = f"{name}_jobs"
    theirs = url.set(username=user, password=password, database=database)
    with administrator(url) as connection:
        try:
            for statement in (
                f"CREATE DATABASE {database}",
                f"USE {database}",
                *SQLStore.schema("mariadb").split(";\n"),
                f"CREATE USER '{user}'@'%' IDENTIFIED BY '{password}'",
                f"GRANT {PRIVILEGES} ON {database}.backjob TO '{user}'@'%'",
                f"GRANT {PRIVILEGES} ON {database}.backjob_output TO '{user}'@'%'",
            ):
                if statement.strip():
                    connection.execute(text(statement))
            for create_table in (False, True):
                with closing(SQLStore(theirs, create_table=create_table)) as store:
                    use(store)
            connection.execute(text(f"GRANT CREATE, INDEX, {PRIVILEGES} ON {database}.* TO '{user}'@'%'"))
            with closing(SQLStore(theirs, table_name="another")) as store:
                use(store)
        finally:
            connection.execute(text(f"DROP DATABASE IF EXISTS {database}"))
            connection.execute(text(f"DROP USER IF EXISTS '{user}'@'%'"))


@pytest.mark.services
def test_the_privileges_are_enough_in_redis() -> None:
    from redis import Redis

    [acl] = [line for block in blocks(PAGE) for line in block.code.splitlines() if line.startswith("ACL SETUSER")]
    _, _, user, *_ = acl.split()
    [password] = re.findall(r">(\S+)", acl)
    with Templates.made() as templates, private_server(REDIS_PROGRAM, templates) as server:
        client: Any = Redis(port=server.port)
        with closing(client):
            client.execute_command(*acl.split())
        with closing(open_store(f"redis://{user}:{quote(password)}@127.0.0.1:{server.port}/0")) as store:
            use(store)


# --- tables ----------------------------------------------------------------------------------------------------------


def test_the_table_of_caches_names_exactly_the_refused_ones() -> None:
    named = {name for cell, verdict in rows("A cache alone") if verdict.startswith("refused") for name in quoted(cell)}
    refused = {name.rpartition(".")[2] for name, known in caches._KNOWN.items() if known.fault is not None}
    assert named == refused


def test_the_table_of_stores_lists_all_stores() -> None:
    assert [quoted(row[0])[0] for row in rows("Which one")] == [cls.__name__ for cls in CLASSES]


def test_a_store_opens_without_its_server_and_raises_store_unavailable() -> None:
    for url in ("postgresql://app@127.0.0.1:9/app", "mariadb://app@127.0.0.1:9/app", "redis://127.0.0.1:9/0"):
        with closing(open_store(url)) as store, pytest.raises(StoreUnavailable):
            store.get("job")
