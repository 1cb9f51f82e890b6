"""SQLStore on engines of an application with various settings, and its own connections: their end, forks, conflicts."""

from __future__ import annotations

import os
import select
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.pool import NullPool

from backjob.errors import InvalidRequest, StoreUnavailable, StoreUnusable
from backjob.lifecycle import claimed
from backjob.model import Changes, Draft, Expect, Query, Report, Request
from backjob.protocols import Clock, Store
from backjob.stores.sql import SQLStore, metadata
from backjob.stores.sql.prepared import Block, Prepared
from backjob.testing import FakeClock
from backjob.testing._stores.case import StoreCase
from backjob.testing._stores.delaying import DelaysJobs
from backjob.testing._stores.merging import MergesJobs
from backjob.testing._stores.races import Races
from backjob.testing._stores.reporting import OutputCalls, ReportCalls
from backjob.testing._stores.texts import TextCalls
from tests.services import MARIADB, POSTGRES, Service, own_name

pytestmark = pytest.mark.services

DEADLINE: Final = 60  # s
SERVERS: Final = {"PostgreSQL": POSTGRES, "MariaDB": MARIADB}


# --- the application's engine ---------------------------------------------------------------------------------------


class OnEngine(StoreCase):
    """Parts of the contract, through an application's engine."""

    service: ClassVar[Service]
    options: ClassVar[dict[str, Any]] = {}
    query: ClassVar[str] = ""
    racers = 4

    table_name: ClassVar[str]
    engine: ClassVar[Engine]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _engine_for_each_class(cls) -> Iterator[None]:
        cls.table_name = own_name()
        cls.engine = create_engine(cls.service.require() + cls.query, **cls.options)
        yield
        metadata(table_name=cls.table_name).drop_all(cls.engine)
        cls.engine.dispose()

    def make_store(self, clock: Clock) -> Store:
        store = SQLStore(self.engine, clock=clock, table_name=self.table_name)
        with self.engine.begin() as connection:
            for table in reversed(metadata(table_name=self.table_name).sorted_tables):
                connection.execute(table.delete())
        return store


@pytest.mark.slow
class TestSerializablePostgreSQL(OnEngine, DelaysJobs, MergesJobs, ReportCalls, Races):
    service = POSTGRES
    options: ClassVar = {"isolation_level": "SERIALIZABLE", "pool_size": 3, "max_overflow": 2}


@pytest.mark.nightly
class TestPostgreSQLInAutocommit(OnEngine, DelaysJobs, MergesJobs, ReportCalls, Races):
    service = POSTGRES
    options: ClassVar = {"isolation_level": "AUTOCOMMIT", "poolclass": NullPool}


@pytest.mark.slow
class TestSerializableMariaDB(OnEngine, DelaysJobs, MergesJobs, ReportCalls, Races):
    service = MARIADB
    options: ClassVar = {"isolation_level": "SERIALIZABLE", "pool_size": 3, "max_overflow": 2}


@pytest.mark.nightly
class TestMariaDBInAutocommit(OnEngine, DelaysJobs, MergesJobs, ReportCalls, Races):
    service = MARIADB
    options: ClassVar = {"isolation_level": "AUTOCOMMIT", "pool_pre_ping": True}


@pytest.mark.slow
class TestMariaDBWithConnectionsInLatin1(OnEngine, TextCalls, OutputCalls):
    service = MARIADB
    query = "?charset=latin1"


@pytest.fixture(params=SERVERS)
def url(request: pytest.FixtureRequest) -> str:
    return SERVERS[request.param].require()


@pytest.fixture
def table_name(url: str) -> Iterator[str]:
    name = own_name()
    yield name
    engine = create_engine(url)
    metadata(table_name=name).drop_all(engine)
    engine.dispose()


def draft(job_id: str, **fields: Any) -> Draft:
    return Draft(id=job_id, request=Request("GET", "/work"), **fields)


def test_the_store_changes_nothing_of_an_applications_engine(url: str, table_name: str) -> None:
    engine = create_engine(url, isolation_level="SERIALIZABLE", pool_size=1, max_overflow=0)
    with engine.connect() as connection:
        before = connection.get_isolation_level()
    pool = engine.pool
    with closing(SQLStore(engine, table_name=table_name)) as store:
        store.create(draft("job"))
        store.change("job", *claimed("token", 1, 60.0))
        store.report("job", "token", Report(output="x" * 40000))
    assert engine.pool is pool
    assert pool.status().startswith("Pool size: 1  Connections in pool: 1"), "the store kept a connection, or closed it"
    with engine.connect() as connection:
        assert connection.get_isolation_level() == before == "SERIALIZABLE"
        connection.execute(text(f"DELETE FROM {table_name}"))
        connection.rollback()
    assert store.get("job") is not None, "the application's connection no longer rolls back"
    engine.dispose()


def test_a_job_survives_a_rollback_of_the_applications_transaction(url: str, table_name: str) -> None:
    engine = create_engine(url)
    with closing(SQLStore(engine, table_name=table_name)) as store:
        with engine.connect() as connection, connection.begin() as transaction:
            store.create(draft("job"))
            transaction.rollback()
        assert store.get("job") is not None
    engine.dispose()


# --- connections ----------------------------------------------------------------------------------------------------


def test_a_closed_store_keeps_no_connection_open(url: str, table_name: str) -> None:
    store = SQLStore(url, table_name=table_name)
    assert pooled(store) == 0, "a web server may fork after it has loaded the application"
    store.get("job")
    assert pooled(store) == 1
    for _ in range(2):
        store.close()
        assert pooled(store) == 0
    assert store.get("job") is None
    assert pooled(store) == 0


def pooled(store: SQLStore) -> int:
    pool: Any = store._database._connections.get().engine.pool
    return int(pool.checkedin())


def kill_sessions(url: str, store: SQLStore) -> int:
    """End the server's side of the store's connections, as a restart does, and return their number."""
    pool: Any = store._database._connections.get().engine.pool
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    drivers = [entry.driver_connection for entry in list(pool._pool.queue)]
    with engine.connect() as connection:
        for driver in drivers:
            if engine.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_terminate_backend({driver.info.backend_pid}, 10000)"))
            else:
                connection.execute(text(f"KILL {driver.thread_id()}"))
                _wait_for_end(connection, driver.thread_id())
    engine.dispose()
    return len(drivers)


def _wait_for_end(connection: Connection, session: int) -> None:
    living = text(f"SELECT count(*) FROM information_schema.processlist WHERE id = {session}")
    deadline = time.monotonic() + DEADLINE
    while connection.execute(living).scalar_one():
        assert time.monotonic() < deadline, "the server did not end a session"


def test_no_call_fails_for_an_idle_connection_that_died(
    url: str, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(SQLStore(url, table_name=table_name)) as store:
        store.create(draft("job"))
        assert kill_sessions(url, store) == 1
        later = time.monotonic() + 2
        monkeypatch.setattr("backjob.stores.sql.connections.time.monotonic", lambda: later)
        assert store.get("job") is not None


def test_one_call_fails_for_a_connection_that_died_right_after_its_use(
    url: str, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backjob.stores.sql.connections._TRUSTED_IDLE", DEADLINE)  # a busy machine takes its time
    with closing(SQLStore(url, table_name=table_name)) as store:
        store.create(draft("job"))
        for call in (
            lambda: store.get("job"),
            lambda: store.change("job", *claimed("token", 1, 60.0)),
            lambda: store.report("job", "token", Report(output="x" * 20000)),
        ):
            store.find(Query())
            assert kill_sessions(url, store) == 1
            with pytest.raises(StoreUnavailable, match=table_address(url)):
                call()
            assert store.get("job") is not None
    assert store.output("job").text == ""


def test_after_a_lost_connection_the_others_that_were_idle_are_not_used(
    url: str, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backjob.stores.sql.connections._TRUSTED_IDLE", DEADLINE)
    with closing(SQLStore(url, table_name=table_name)) as store:
        store._database.do(lambda _: store.get("job"))  # on a second connection
        assert kill_sessions(url, store) == 2
        with pytest.raises(StoreUnavailable, match=table_address(url)):
            store.get("job")
        assert store.get("job") is None


@pytest.mark.parametrize("url", ["MariaDB"], indirect=True)
def test_a_block_that_fails_leaves_no_transaction_open(url: str, table_name: str) -> None:
    jobs = metadata(table_name=table_name).tables[table_name]
    is_job = jobs.c.id == sa.bindparam("old_id")
    write = Prepared(sa.update(jobs).values(depth=sa.bindparam("new_depth")).where(is_job))
    depth = sa.select(jobs.c.depth).where(is_job)
    refused: Any = sa.select(sa.literal_column("(SELECT 1 UNION SELECT 2)"))
    values = {"new_depth": 7, "old_id": "job"}
    with closing(SQLStore(url, table_name=table_name)) as store:
        store.create(draft("job"))

        def step(connection: Connection) -> int:
            with pytest.raises(store._database._connections.get().foreign, match="more than 1 row"):
                store._database.run_block(connection, Block(write, result=Prepared(refused)), values)
            return int(connection.exec_driver_sql("SELECT @@in_transaction").scalar_one())

        assert store._database.do(step) == 0
        assert store._database.do(lambda connection: Prepared(depth).rows(connection, values)) == ((0,),)
        block = Block(write, result=Prepared(depth))
        assert store._database.do(lambda connection: store._database.run_block(connection, block, values)) == ((7,),)


def table_address(url: str) -> str:
    return url.partition("@")[2].partition("?")[0]


CONFLICTS: Final = {
    "postgresql": "DO $$ BEGIN RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01'; END $$",
    "mariadb": "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'Deadlock found'",
}
"""SQL that fails as the victim of a deadlock does."""


@pytest.mark.parametrize("conflicts", [1, 3, 100])
def test_a_deadlock_is_retried_a_limited_number_of_times(
    url: str, table_name: str, monkeypatch: pytest.MonkeyPatch, conflicts: int
) -> None:
    monkeypatch.setattr("backjob.stores.sql.database._PAUSES", (0.0,) * 5)
    attempts: list[int] = []

    def step(connection: Connection) -> str:
        attempts.append(1)
        connection.execute(text(f"INSERT INTO {table_name}_output VALUES ({len(attempts)}, 0, 'chunk')"))
        if len(attempts) <= conflicts:
            connection.exec_driver_sql(CONFLICTS[connection.dialect.name])
        return "done"

    with closing(SQLStore(url, table_name=table_name)) as store:
        if conflicts < 6:
            assert store._database.transact(step) == "done"
            assert len(attempts) == conflicts + 1
        else:
            with pytest.raises(StoreUnavailable, match=r"(?i)deadlock"):
                store._database.transact(step)
            assert len(attempts) == 6
        written = store._database.do(
            lambda connection: connection.execute(text(f"SELECT job FROM {table_name}_output")).all()
        )
        assert written == ([(conflicts + 1,)] if conflicts < 6 else [])


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_the_connection_of_an_interrupted_step_is_not_used_again(
    url: str, table_name: str, interruption: type[BaseException]
) -> None:
    def step(connection: Connection) -> None:
        connection.execute(text(f"INSERT INTO {table_name}_output VALUES (1, 0, 'chunk')"))
        raise interruption

    with closing(SQLStore(url, table_name=table_name)) as store:
        before = session(store)
        with pytest.raises(interruption):
            store._database.transact(step)
        assert session(store) != before
        count = text(f"SELECT count(*) FROM {table_name}_output")
        assert store._database.do(lambda connection: connection.execute(count).scalar_one()) == 0


# --- values and errors ----------------------------------------------------------------------------------------------


def test_a_given_clock_is_the_stores_time(url: str, table_name: str) -> None:
    clock = FakeClock(datetime(2040, 1, 2, 3, 4, 5, 6, tzinfo=UTC))
    with closing(SQLStore(url, table_name=table_name, clock=clock)) as store:
        assert store.create(draft("job")).created_time == clock.now()


def test_the_longest_labels_are_stored_in_full(url: str, table_name: str) -> None:
    labels = {"owner": "😀" * 255, "scope": "😀" * 255, "lessee": "x" * 255}
    with closing(SQLStore(url, table_name=table_name)) as store:
        store.create(draft("job", **labels), "x" * 255)
        job = store.get("job")
    assert job is not None
    assert (job.owner, job.scope, job.lessee, job.merge_key) == (*labels.values(), "x" * 255)


def test_a_number_beyond_64_bits_is_no_version_and_no_offset(url: str, table_name: str) -> None:
    with closing(SQLStore(url, table_name=table_name)) as store:
        store.create(draft("job"))
        with suppress(InvalidRequest):  # from PostgreSQL; MariaDB compares it and finds it unequal
            assert store.change("job", Expect(version=1 << 70), Changes(progress=1)) is None
        store.change("job", *claimed("token", 1, 60.0))
        store.report("job", "token", Report(output="some"))
        assert store.output("job", 1 << 70).text == ""
        assert store.output("job", 0, 1 << 70).text == "some"


def test_an_error_and_its_traceback_show_no_value_of_a_job(url: str, table_name: str) -> None:
    secret = "hush" * 3  # in two parts, because the traceback shows this source
    with closing(SQLStore(url, table_name=table_name)) as store:
        store._database.do(lambda connection: connection.exec_driver_sql(f"DROP TABLE {table_name}"))
        with pytest.raises(StoreUnusable, match=f"no table '{table_name}'") as caught:
            store.create(draft("job", sealed=secret.encode(), owner=secret), secret)
    assert secret not in "".join(traceback.format_exception(caught.value))


# --- forks ----------------------------------------------------------------------------------------------------------


def in_child(run: Callable[[], str]) -> str:
    """The text that the function returns in a forked child, or what went wrong there."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        text_of_child = "it died"
        try:
            text_of_child = run()
        except BaseException as error:
            text_of_child = repr(error)
        finally:
            os.write(writing, text_of_child.encode()[:4096])
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:  # noqa: PTH123 - a descriptor has no path
        answer = pipe.read() if select.select([pipe], [], [], DEADLINE)[0] else "it hangs"
    if answer == "it hangs":
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return answer


@pytest.mark.parametrize("own", [True, False])
def test_a_forked_child_opens_its_own_connections(url: str, table_name: str, own: bool) -> None:
    engine = create_engine(url)
    with closing(SQLStore(url if own else engine, table_name=table_name)) as store:
        store.create(draft("job"))
        of_parent = session(store)

        def run() -> str:
            answer = f"{session(store) != of_parent} {store.get('job') is not None}"
            store.close()
            return answer

        assert in_child(run) == "True True"
        assert session(store) == of_parent, "the child closed the parent's connection"
    engine.dispose()


def test_a_child_that_is_forked_while_all_connections_are_in_use_opens_its_own(
    url: str, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backjob.stores.sql.connections._POOL_SIZE", 1)
    with closing(SQLStore(url, table_name=table_name)) as store:
        store.create(draft("job"))
        child: Callable[[Connection], str] = lambda _: in_child(lambda: str(store.get("job") is not None))  # noqa: E731
        assert store._database.do(child) == "True"
        assert store.get("job") is not None


def session(store: SQLStore) -> int:
    """The server's id of the store's connection."""

    def read(connection: Connection) -> int:
        sql = "SELECT pg_backend_pid()" if connection.dialect.name == "postgresql" else "SELECT connection_id()"
        return int(connection.execute(text(sql)).scalar_one())

    return store._database.do(read)
