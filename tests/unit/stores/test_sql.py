"""SQLStore without a server: its arguments and URLs, its errors, and the SQL that it prints."""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import create_engine, exc

from backjob.cli import main
from backjob.errors import BackJobError, InvalidRequest, StoreUnavailable, StoreUnusable
from backjob.stores import open_store
from backjob.stores.sql import SQLStore, metadata
from backjob.stores.sql.errors import Meaning, meaning, translated
from backjob.stores.sqlite import SQLiteStore

CLOSED = "127.0.0.1:9"  # the discard port, which refuses connections


# --- arguments and URLs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "driver"),
    [
        ("postgresql", "postgresql+psycopg"),
        ("postgres", "postgresql+psycopg"),
        ("postgresql+psycopg", "postgresql+psycopg"),
        ("mysql", "mysql+pymysql"),
        ("mysql+pymysql", "mysql+pymysql"),
        ("mariadb", "mariadb+pymysql"),
        ("mariadb+pymysql", "mariadb+pymysql"),
    ],
)
def test_a_store_opens_although_its_server_is_down_and_then_each_call_fails(scheme: str, driver: str) -> None:
    with closing(open_store(f"{scheme}://app:hush@{CLOSED}/app")) as store:
        for _ in range(2):
            with pytest.raises(
                StoreUnavailable, match=rf"^{driver.replace('+', '.')}://app@{CLOSED}/app: .*refused"
            ) as caught:
                store.get("job")
            assert "hush" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("url", "error", "text"),
    [
        (f"postgresql://app:hush@{CLOSED}/app?bogus=1", StoreUnusable, "bogus"),
        (f"mysql://app:hush@{CLOSED}/app?bogus=1", StoreUnusable, "bogus"),
        (f"mysql://app:hush@{CLOSED}/app?connect_timeout=soon", InvalidRequest, "soon"),
        (f"mysql://app:hush@{CLOSED}/app?create_table=perhaps", InvalidRequest, "yes or no"),
        (f"mysql://app:hush@{CLOSED}/app?schema=", InvalidRequest, "schema"),
        (f"mysql://app:hush@{CLOSED}/app?ssl_ca=/nowhere/ca.pem", StoreUnusable, "can't connect"),
        ("postgresql://app:hush@host:port/app", InvalidRequest, "not the URL of a database"),
        ("postgresql:app", InvalidRequest, "not the URL of a database"),
        ("sqlite+pysqlite:///jobs.db", InvalidRequest, "sqlite:///jobs.db"),
    ],
)
def test_an_invalid_url_is_refused_at_once(url: str, error: type[BackJobError], text: str) -> None:
    with pytest.raises(error) as caught:
        open_store(url).close()
    assert text in str(caught.value)
    assert "hush" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        ({"table_name": ""}, "table_name"),
        ({"table_name": "1st"}, "table_name"),
        ({"table_name": 'a"; DROP TABLE b; --'}, "table_name"),
        ({"table_name": "x" * 49}, "table_name"),
        ({"table_name": "jobs\n"}, "table_name"),
        ({"schema": ""}, "schema"),
        ({"database": "oracle://host/db"}, "database"),
        ({"database": "nonsense"}, "database"),
    ],
)
def test_an_invalid_argument_is_refused_by_name(arguments: dict[str, Any], refused: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SQLStore(**{"database": f"postgresql://app@{CLOSED}/app", **arguments})
    assert caught.value.argument == refused


@pytest.mark.parametrize("database", ["sqlite:///jobs.db", "sqlite+pysqlite://", create_engine("sqlite://")])
def test_sqlite_is_left_to_its_own_store(database: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"use SQLiteStore, or a URL such as sqlite:///jobs\.db") as caught:
        SQLStore(database)
    assert caught.value.argument == "database"


def test_an_asynchronous_engine_is_refused() -> None:
    pytest.importorskip("greenlet")
    engine = create_engine("postgresql+psycopg_async://app@host/app")
    with pytest.raises(InvalidRequest, match="synchronous driver"):
        SQLStore(engine)


def test_a_driver_that_is_not_installed_is_named() -> None:
    with pytest.raises(StoreUnusable, match="module asyncmy is not installed") as caught:
        SQLStore("mysql+asyncmy://app:hush@host/app")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("absent", "url", "extra"),
    [
        ("sqlalchemy", "postgresql://host/app", "sqlalchemy"),
        ("psycopg", "postgresql://host/app", "postgresql"),
        ("pymysql", "mariadb://host/app", "mysql"),
    ],
)
def test_a_missing_extra_is_named(absent: str, url: str, extra: str) -> None:
    program = (
        f"import sys; sys.modules[{absent!r}] = None\n"
        "from backjob.stores import open_store; from backjob.errors import MissingExtra\n"
        f"try: open_store({url!r})\n"
        "except MissingExtra as error: print(error.extra, error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith(f"{extra} "), done.stderr
    assert f"pip install 'backjob[{extra}]'" in done.stdout


# --- errors ---------------------------------------------------------------------------------------------------------


class DriverError(Exception):
    """An exception of a driver. Its classes have the names of PEP 249."""

    def __init__(self, *arguments: object, **attributes: object) -> None:
        super().__init__(*arguments)
        vars(self).update(attributes)


def kind(name: str) -> type[DriverError]:
    return type(name, (DriverError,), {})


OPERATIONAL, PROGRAMMING, INTERNAL = kind("OperationalError"), kind("ProgrammingError"), kind("InternalError")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OPERATIONAL("deadlock detected", sqlstate="40P01"), Meaning.CONFLICT),
        (OPERATIONAL("could not serialize access", sqlstate="40001"), Meaning.CONFLICT),
        (OPERATIONAL("could not serialize access", pgcode="40001"), Meaning.CONFLICT),
        (OPERATIONAL(1213, "Deadlock found", sqlstate="40001"), Meaning.CONFLICT),
        (OPERATIONAL(1205, "Lock wait timeout exceeded", sqlstate="HY000"), Meaning.UNAVAILABLE),
        (OPERATIONAL("lock timeout", sqlstate="55P03"), Meaning.UNAVAILABLE),
        (OPERATIONAL("too many clients", sqlstate="53300"), Meaning.UNAVAILABLE),
        (OPERATIONAL("terminating connection", sqlstate="57P01"), Meaning.UNAVAILABLE),
        (INTERNAL("read-only transaction", sqlstate="25006"), Meaning.UNAVAILABLE),
        (OPERATIONAL(1290, "running with the --read-only option"), Meaning.UNAVAILABLE),
        (OPERATIONAL(2006, "server has gone away"), Meaning.UNAVAILABLE),
        (OPERATIONAL(1040, "Too many connections"), Meaning.UNAVAILABLE),
        (OPERATIONAL('FATAL:  password authentication failed for user "app"'), Meaning.UNUSABLE),
        (OPERATIONAL('FATAL:  database "app" does not exist'), Meaning.UNUSABLE),
        (OPERATIONAL("FATAL:  the database system is starting up"), Meaning.UNAVAILABLE),
        (OPERATIONAL(1045, "Access denied"), Meaning.UNUSABLE),
        (OPERATIONAL(1049, "Unknown database"), Meaning.UNUSABLE),
        (OPERATIONAL(1142, "INSERT command denied"), Meaning.UNUSABLE),
        (PROGRAMMING("permission denied", sqlstate="42501"), Meaning.UNUSABLE),
        (PROGRAMMING("relation does not exist", sqlstate="42P01"), Meaning.MISSING),
        (PROGRAMMING(1146, "Table doesn't exist"), Meaning.MISSING),
        (PROGRAMMING("anything"), Meaning.UNUSABLE),
        (kind("DataError")("anything"), Meaning.REFUSED),
        (kind("IntegrityError")(1062, "Duplicate entry"), Meaning.DUPLICATE),
        (OPERATIONAL("index row size exceeds", sqlstate="54000"), Meaning.REFUSED),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), Meaning.REFUSED),
        (exc.TimeoutError("QueuePool limit reached"), Meaning.UNAVAILABLE),
        (exc.ArgumentError("no such column"), Meaning.UNUSABLE),
    ],
)
def test_an_error_of_a_driver_is_classified_by_its_code(error: Exception, expected: Meaning) -> None:
    assert meaning(error) is expected
    if isinstance(error, DriverError):
        wrapped = exc.DBAPIError("SELECT hush", {"token": "hush"}, error)
        assert meaning(wrapped) is expected
        assert "hush" not in str(translated(wrapped, "mysql://app@host/app", "jobs"))
        lost = exc.DBAPIError("SELECT 1", {}, error, connection_invalidated=True)
        assert meaning(lost) is Meaning.UNAVAILABLE


# --- the printed SQL ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", ["1", *(pytest.param(seed, marks=pytest.mark.slow) for seed in ("2", "3"))])
def test_every_process_prints_the_same_sql(seed: str) -> None:
    dialects = ["postgresql", "mysql", "mariadb"]
    program = (
        "import json; from backjob.stores.sql import SQLStore; "
        f"print(json.dumps([SQLStore.schema(dialect) for dialect in {dialects}]))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    here = [SQLStore.schema(dialect) for dialect in dialects]
    assert json.loads(printed) == here
    assert [schema.count(";\n") for schema in here] == [11] * len(dialects)


@pytest.mark.parametrize("dialect", ["postgresql", "mysql", "mariadb"])
def test_the_command_prints_it(dialect: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--dialect", dialect, "--table-name", "work", "--schema", "own"]) == 0
    assert capsys.readouterr().out == SQLStore.schema(dialect, table_name="work", schema="own")


def test_the_command_refuses_an_unknown_dialect_and_an_invalid_table_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--dialect", "oracle"]) == 64
    assert "none of postgresql, mysql, mariadb" in capsys.readouterr().err
    assert main(["schema", "--dialect", "mysql", "--table-name", "a b"]) == 64
    assert "table_name" in capsys.readouterr().err


def test_the_command_prints_the_tables_of_the_sqlite_store(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--dialect", "sqlite", "--table-name", "work"]) == 0
    assert capsys.readouterr().out == SQLiteStore.schema("work")
    assert main(["schema", "--dialect", "sqlite", "--schema", "own"]) == 64
    assert "SQLite has no schemas" in capsys.readouterr().err


def test_the_metadata_is_the_two_tables() -> None:
    tables = metadata(table_name="work", schema="own").tables
    assert sorted(tables) == ["own.work", "own.work_output"]
