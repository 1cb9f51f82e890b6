"""SQLStore without a server: what its arguments and URLs mean, what is refused at once, what errors say and hide."""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, exc

from backjob.cli import commands as cli
from backjob.errors import BackJobError, InvalidRequest, StoreUnavailable, StoreUnusable
from backjob.lifecycle import claimed
from backjob.model import Changes, Draft, Expect, Report, Request
from backjob.stores import open_store
from backjob.stores.sql import SQLStore, metadata
from backjob.stores.sql.errors import Meaning, meaning, translated
from backjob.testing import FakeClock

NOBODY = "127.0.0.1:9"  # the discard port: nobody answers, and says so at once


def draft(job_id: str = "job", **fields: Any) -> Draft:
    return Draft(id=job_id, request=Request("GET", "/work"), **fields)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite+pysqlite:///{tmp_path}/jobs.db"


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
def test_a_server_that_does_not_answer_is_an_error_of_the_first_call_alone(scheme: str, driver: str) -> None:
    with closing(open_store(f"{scheme}://app:hush@{NOBODY}/app")) as store:
        for _ in range(2):
            with pytest.raises(
                StoreUnavailable, match=rf"^{driver.replace('+', '.')}://app@{NOBODY}/app: .*refused"
            ) as caught:
                store.get("job")
            assert "hush" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("url", "error", "told"),
    [
        (f"postgresql://app:hush@{NOBODY}/app?bogus=1", StoreUnusable, "bogus"),
        (f"mysql://app:hush@{NOBODY}/app?bogus=1", StoreUnusable, "bogus"),
        (f"mysql://app:hush@{NOBODY}/app?connect_timeout=soon", InvalidRequest, "soon"),
        (f"mysql://app:hush@{NOBODY}/app?create_table=perhaps", InvalidRequest, "yes or no"),
        (f"mysql://app:hush@{NOBODY}/app?schema=", InvalidRequest, "schema"),
        (f"mysql://app:hush@{NOBODY}/app?ssl_ca=/nowhere/ca.pem", StoreUnusable, "can't connect"),
        ("postgresql://app:hush@host:port/app", InvalidRequest, "no URL of a database"),
        ("postgresql:app", InvalidRequest, "no URL of a database"),
        ("sqlite+pysqlite://", InvalidRequest, "a file is expected"),
        ("sqlite+pysqlite:///:memory:", InvalidRequest, "a file is expected"),
        ("sqlite+pysqlite:////nowhere/at/all/jobs.db", StoreUnusable, "no directory /nowhere/at/all"),
    ],
)
def test_a_url_that_cannot_work_fails_at_once(url: str, error: type[BackJobError], told: str) -> None:
    with pytest.raises(error) as caught:
        open_store(url).close()
    assert told in str(caught.value)
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
def test_an_argument_that_cannot_be_is_refused_by_name(url: str, arguments: dict[str, Any], refused: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SQLStore(**{"database": url, **arguments})
    assert caught.value.argument == refused


def test_an_asynchronous_engine_is_refused() -> None:
    pytest.importorskip("greenlet")
    engine = create_engine("postgresql+psycopg_async://app@host/app")
    with pytest.raises(InvalidRequest, match="asynchronous"):
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


def test_the_plain_scheme_of_sqlite_stays_with_the_store_that_needs_nothing(tmp_path: Path) -> None:
    with closing(open_store(f"sqlite:///{tmp_path}/jobs.db")) as store:
        assert not isinstance(store, SQLStore)


def test_the_clock_is_the_stores_time(url: str) -> None:
    clock = FakeClock(datetime(2040, 1, 2, 3, 4, 5, 6, tzinfo=UTC))
    with closing(open_store(url, clock=clock)) as store:
        assert store.create(draft()).created_time == clock.now()


# --- values ---------------------------------------------------------------------------------------------------------


def test_the_longest_labels_fit(url: str) -> None:
    with closing(SQLStore(url)) as store:
        labels = {"owner": "😀" * 255, "scope": "😀" * 255, "lessee": "x" * 255}
        job = store.create(draft(**labels), "x" * 255)
        assert (job.owner, job.scope, job.lessee) == tuple(labels.values())


def test_a_number_beyond_64_bits_is_no_version_and_no_offset(url: str) -> None:
    with closing(SQLStore(url)) as store:
        store.create(draft())
        with pytest.raises(InvalidRequest):
            store.change("job", Expect(version=1 << 70), Changes(progress=1))
        store.change("job", *claimed("token"))
        store.report("job", "token", Report(output="some"))
        assert store.output("job", 1 << 70).text == ""
        assert store.output("job", 0, 1 << 70).text == "some"


# --- errors ---------------------------------------------------------------------------------------------------------


class Told(Exception):
    """What a driver may raise, of a class that is called as all drivers call it (PEP 249)."""

    def __init__(self, *arguments: object, **attributes: object) -> None:
        super().__init__(*arguments)
        vars(self).update(attributes)


def kind(name: str) -> type[Told]:
    return type(name, (Told,), {})


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
        (OPERATIONAL("database is locked", sqlite_errorcode=5), Meaning.UNAVAILABLE),
        (OPERATIONAL("disk I/O error", sqlite_errorcode=10 | 3 << 8), Meaning.UNAVAILABLE),
        (OPERATIONAL("attempt to write a readonly database", sqlite_errorcode=8), Meaning.UNUSABLE),
        (kind("DatabaseError")("file is not a database", sqlite_errorcode=26), Meaning.UNUSABLE),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), Meaning.REFUSED),
        (exc.TimeoutError("QueuePool limit reached"), Meaning.UNAVAILABLE),
        (exc.ArgumentError("no such column"), Meaning.UNUSABLE),
    ],
)
def test_what_a_drivers_error_means(error: Exception, expected: Meaning) -> None:
    assert meaning(error) is expected
    if isinstance(error, Told):
        wrapped = exc.DBAPIError("SELECT hush", {"token": "hush"}, error)
        assert meaning(wrapped) is expected
        told = translated(wrapped, "mysql://app@host/app", "jobs")
        assert "hush" not in str(told)
        lost = exc.DBAPIError("SELECT 1", {}, error, connection_invalidated=True)
        assert meaning(lost) is Meaning.UNAVAILABLE


def test_an_error_shows_no_value_of_a_job(url: str) -> None:
    """Neither its text nor the whole traceback, which an application logs."""
    secret = "hush" * 3  # spelt so that the traceback's lines of source don't show it
    with closing(SQLStore(url)) as store:
        store._database.do(lambda connection: connection.exec_driver_sql("DROP TABLE backjob"))
        with pytest.raises(StoreUnusable, match="no table 'backjob'") as caught:
            store.create(draft(sealed=secret.encode(), owner=secret), secret)
    assert secret not in "".join(traceback.format_exception(caught.value))


# --- the printed statements -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_the_statements_are_the_same_in_every_process(seed: str) -> None:
    dialects = ["postgresql", "mysql", "mariadb", "sqlite"]
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
    assert [schema.count(";\n") for schema in here] == [8] * len(dialects)


@pytest.mark.parametrize("dialect", ["postgresql", "mysql", "mariadb", "sqlite"])
def test_the_command_prints_them(dialect: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema", "--dialect", dialect, "--table-name", "work", "--schema", "own"]) == 0
    assert capsys.readouterr().out == SQLStore.schema(dialect, table_name="work", schema="own")


def test_the_command_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema", "--dialect", "oracle"]) == 64
    assert "none of postgresql, mysql, mariadb, sqlite" in capsys.readouterr().err
    assert cli.main(["schema", "--dialect", "sqlite", "--table-name", "a b"]) == 64
    assert "table_name" in capsys.readouterr().err


def test_the_metadata_is_the_two_tables() -> None:
    tables = metadata(table_name="work", schema="own").tables
    assert sorted(tables) == ["own.work", "own.work_output"]
