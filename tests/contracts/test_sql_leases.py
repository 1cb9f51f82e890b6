"""The run leases of SQLStore: in one write, on a connection of its own, in whatever state the others are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any, Final

import psycopg
import pymysql.cursors
import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.pool import NullPool

from backjob.errors import StoreUnavailable
from backjob.lifecycle import Late, claimed, continued, ended, failed, reaped, requeued
from backjob.model import Changes, Draft, Expect, Query, Report, Request
from backjob.stores.rows import After, assignments, conditions
from backjob.stores.sql import SQLStore, metadata
from backjob.stores.sql.prepared import Block
from tests.contracts.bulk_jobs import _NUMBERS, _columns, _execute
from tests.contracts.test_sql_engines import SERVERS, _wait_for_end, draft, in_child
from tests.services import own_name

pytestmark = pytest.mark.services

DEADLINE: Final = 60.0  # s
NOBODY: Final = frozenset[str]()


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


def with_running(store: SQLStore, *job_ids: str) -> dict[str, str]:
    """Start and claim these jobs; return their tokens."""
    for job_id in job_ids:
        store.create(draft(job_id))
        assert store.change(job_id, *claimed(f"token of {job_id}", 1, 1000.0))
    return {job_id: f"token of {job_id}" for job_id in job_ids}


def is_postgresql(url: str) -> bool:
    return url.startswith("postgresql")


# --- connections ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [True, False], ids=["URL", "engine"])
def test_a_renewal_waits_for_no_connection_that_other_calls_keep(
    url: str, table_name: str, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backjob.stores.sql.connections._POOL_SIZE", 1)
    monkeypatch.setattr("backjob.stores.sql.connections._POOL_TIMEOUT", 0.01)
    engine = create_engine(url, pool_size=1, max_overflow=0, pool_timeout=0.01)
    with closing(SQLStore(url if own else engine, table_name=table_name)) as store:
        tokens = with_running(store, "job")

        def while_busy(_: object) -> frozenset[str]:
            with pytest.raises(StoreUnavailable):
                store.get("job")
            return store.beat({**tokens, "other": "token"}, 60, NOBODY)

        assert store._database.do(while_busy) == {"other"}
    engine.dispose()


@pytest.mark.parametrize("own", [True, False], ids=["URL", "engine"])
def test_a_renewal_survives_an_idle_connection_that_died(
    url: str, table_name: str, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_engine(url)
    with closing(SQLStore(url if own else engine, table_name=table_name)) as store:
        tokens = with_running(store, "job")
        assert store.beat(tokens, 60, NOBODY) == NOBODY
        session = renewing_session(store)
        kill(url, session)
        monkeypatch.setattr("backjob.stores.sql.connections._TRUSTED_IDLE", -1.0)
        assert store.beat(tokens, 120, NOBODY) == NOBODY
        assert renewing_session(store) != session
        job = store.get("job")
        assert job is not None
        assert job.lease_until is not None
        assert (job.lease_until - job.read_time).total_seconds() > 60, (
            "the renewal on the new connection was not committed"
        )
    engine.dispose()


def renewing_session(store: SQLStore) -> int:
    """The server's id of the connection for renewals."""
    sql = "SELECT pg_backend_pid()" if store._database.kind == "postgresql" else "SELECT connection_id()"
    return store._database.do(lambda connection: int(connection.execute(text(sql)).scalar_one()), separate=True)


def kill(url: str, session: int) -> None:
    sql = f"SELECT pg_terminate_backend({session}, 10000)" if is_postgresql(url) else f"KILL {session}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(sql))
        if not is_postgresql(url):
            _wait_for_end(connection, session)


@pytest.mark.parametrize("own", [True, False], ids=["URL", "engine"])
def test_the_connection_for_renewals_is_closed_with_the_store(url: str, table_name: str, own: bool) -> None:
    engine = create_engine(url)
    store = SQLStore(url if own else engine, table_name=table_name)
    tokens = with_running(store, "job")
    pool: Callable[[], Any] = lambda: store._database._separate.get().engine.pool  # noqa: E731
    assert pool().checkedin() == 0, "it is opened at the first renewal"
    store.beat(tokens, 60, NOBODY)
    assert pool().checkedin() == 1
    store.close_idle()
    assert pool().checkedin() == 0
    store.close()
    store.beat(tokens, 60, NOBODY)
    assert pool().checkedin() == 0
    engine.dispose()


def test_a_forked_child_renews_leases_on_a_connection_of_its_own(url: str, table_name: str) -> None:
    engine = create_engine(url)
    with closing(SQLStore(engine, table_name=table_name)) as store:
        tokens = with_running(store, "job")
        store.beat(tokens, 60, NOBODY)
        session = renewing_session(store)
        assert in_child(lambda: f"{renewing_session(store) != session} {store.beat(tokens, 60, NOBODY)}") == (
            f"True {NOBODY}"
        )
        assert (renewing_session(store), store.beat(tokens, 60, NOBODY)) == (session, NOBODY)
    engine.dispose()


# --- locks ----------------------------------------------------------------------------------------------------------


@contextmanager
def locked(url: str, table_name: str, job_id: str) -> Iterator[None]:
    """Another transaction that has locked a job."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection, connection.begin() as transaction:
        connection.execute(text(f"UPDATE {table_name} SET depth = depth + 1 WHERE id = '{job_id}'"))
        yield
        transaction.rollback()


def test_a_job_that_another_transaction_has_locked_is_not_stale_and_holds_up_no_other(
    url: str, table_name: str
) -> None:
    with closing(SQLStore(url, table_name=table_name)) as store:
        tokens = with_running(store, "locked", "free")
        before = {job_id: lease_of(store, job_id) for job_id in tokens}
        with locked(url, table_name, "locked"):
            assert store.beat({**tokens, "other": "token"}, 5000, NOBODY) == {"other"}
            assert lease_of(store, "free") > before["free"]
        assert lease_of(store, "locked") == before["locked"]
        assert store.beat(tokens, 5000, NOBODY) == NOBODY
        assert lease_of(store, "locked") > before["locked"]


def lease_of(store: SQLStore, job_id: str) -> Any:
    job = store.get(job_id)
    assert job is not None
    return job.lease_until


@pytest.mark.slow
def test_renewals_reports_and_ends_at_once_never_deadlock(
    url: str, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backjob.stores.sql.database._PAUSES", ())  # the first conflict is an error
    names = [f"{number}" for number in range(120)]
    engine = create_engine(url, pool_size=8)
    with (
        closing(SQLStore(engine, table_name=table_name)) as store,
        closing(SQLStore(url, table_name=table_name)) as other,
    ):
        tokens = with_running(store, *names)
        backwards = dict(reversed(tokens.items()))
        over = threading.Event()

        def renew(store: SQLStore, tokens: dict[str, str]) -> int:
            count = 0
            while not over.is_set() or not count:
                store.beat(tokens, 1000, frozenset(names[::3]))
                count += 1
            return count

        def report() -> None:
            for _ in range(3):
                for name in names:
                    assert store.report(name, tokens[name], Report(output="x" * 20000, cursor=name))

        def end() -> None:
            for name in reversed(names):
                job = store.get(name)
                assert job is not None
                requeue = requeued(job, continued(), job.read_time)
                assert store.change(name, Expect(token=tokens[name]), requeue)

        with ThreadPoolExecutor(3) as pool:
            renewals = [pool.submit(renew, store, tokens), pool.submit(renew, other, backwards)]
            try:
                pool.submit(report).result(DEADLINE)
                pool.submit(end).result(DEADLINE)
            finally:
                over.set()
            assert all(renewal.result(DEADLINE) for renewal in renewals)
        assert store.beat(tokens, 10, NOBODY) == frozenset(names), "all wait for their next run"
    engine.dispose()


def test_a_renewal_between_the_read_and_the_write_of_an_end_wins(
    url: str, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MySQL reads the job before it writes, and a renewal leaves the version as it is."""
    monkeypatch.setattr(Block, "is_taken_by", lambda _: False)
    with closing(SQLStore(url, table_name=table_name)) as store:
        tokens = with_running(store, "job")
        store.beat(tokens, -1, NOBODY)
        job = store.get("job")
        assert job is not None

        def read_and_renew(*arguments: Any, read: Callable[..., Any] = store._changing.get, **options: Any) -> Any:
            found = read(*arguments, **options)
            store.beat(tokens, 60, NOBODY)
            return found

        monkeypatch.setattr(store._changing, "get", read_and_renew)
        end = store.change("job", reaped(job, Late.DEAD), ended(failed("dead")))
        if is_postgresql(url):
            assert end is not None  # one statement, without reading
        else:
            assert end is None
            assert store.beat(tokens, 60, NOBODY) == NOBODY


# --- the number of statements ---------------------------------------------------------------------------------------

sent: Final[list[str]] = []


class PostgresCursor(psycopg.Cursor[Any]):
    """Notes each statement."""

    def execute(self, query: Any, *arguments: Any, **options: Any) -> Any:
        sent.append(str(query))
        return super().execute(query, *arguments, **options)


class MariaDBCursor(pymysql.cursors.Cursor):
    """Notes each statement."""

    def execute(self, query: str, args: object = None) -> int:
        sent.append(query)
        return super().execute(query, args)


@pytest.fixture
def counted(url: str, table_name: str) -> Iterator[SQLStore]:
    """A store whose statements are noted."""

    def set_cursor(connection: Any, _: object) -> None:
        if is_postgresql(url):
            connection.cursor_factory = PostgresCursor
        else:
            connection.cursorclass = MariaDBCursor

    with closing(SQLStore(url, table_name=table_name)) as store:
        for connections in (store._database._connections, store._database._separate):
            event.listen(connections.get().engine, "connect", set_cursor)
        yield store


def statements(call: Callable[[], object]) -> int:
    sent.clear()
    assert call()
    return len(sent)


def test_a_claim_a_report_an_end_and_a_renewal_send_as_few_statements_as_possible(url: str, counted: SQLStore) -> None:
    short, long = Report(progress=5, output="line\n", cursor=5), Report(output="x" * 40000)
    store = counted
    for job_id in ("job", "other"):
        store.create(draft(job_id))
    store.beat({"warm": "up"}, 1, NOBODY)
    end, slot = ended(failed("over")), Changes(slot="exports/0")
    token = Expect(token="token")
    calls: dict[str, tuple[Callable[[], object], int, int]] = {
        # with the numbers of PostgreSQL and of MariaDB
        "slot": (lambda: store.change("job", Expect(unclaimed=True), slot), 1, 1),
        "claim": (lambda: store.change("job", *claimed("token", 1, 18)), 1, 1),
        "report": (lambda: store.report("job", "token", Report(progress=4)), 1, 1),
        "checkpoint": (lambda: store.report("job", "token", Report(cursor=4)), 1, 1),
        "checkpoint with output": (lambda: store.report("job", "token", short), 1, 1),
        "much output": (lambda: store.report("job", "token", long), 6, 6),
        "renewal": (lambda: store.beat({"job": "token"}, 18, NOBODY) == NOBODY, 1, 4),
        "end": (lambda: store.change("job", token, end), 1, 1),
        "due": (lambda: store.take_due("me", 18, 10), 1, 5),
        "nothing due": (lambda: store.take_due("me", 18, 10) == [], 1, 1),
    }
    found = {name: statements(call) for name, (call, _, _) in calls.items()}
    expected = {name: postgresql if is_postgresql(url) else mariadb for name, (_, postgresql, mariadb) in calls.items()}
    assert found == expected


@pytest.mark.slow
def test_a_thousand_leases_are_renewed_in_one_write(url: str, table_name: str, counted: SQLStore) -> None:
    tokens = with_running(counted, *[f"{number}" for number in range(1000)])
    assert counted.beat(tokens, 60, NOBODY) == NOBODY
    number = statements(lambda: counted.beat(tokens, 60, frozenset(tokens)) == NOBODY)
    assert number == (1 if is_postgresql(url) else 4)
    assert len([statement for statement in sent if f"UPDATE {table_name} SET" in statement]) == 1


# --- plans ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_jobs_that_wait_or_have_ended_do_not_slow_down_the_searches(url: str, table_name: str) -> None:
    """The searches of each pass read an index, of 20,000 jobs that are delayed or have ended."""
    with closing(SQLStore(url, table_name=table_name)) as store:
        for job_id, due in (("delayed", 86400.0), ("over", 0.0), ("expiring", 0.0)):
            store.create(Draft(id=job_id, request=Request("GET", "/work"), due=due, label="mine", expires=86400.0))
        store.change("over", Expect(), ended(failed("over")))
        many(url, table_name, "delayed", 10000)
        many(url, table_name, "over", 10000)
        leases, searches = store._sql.leases, store._sql.searches
        due_jobs = leases.due(labels=1, full=1, queues=0)
        overdue = searches.find(Query(overdue=True, labels=frozenset(("mine",))))
        values = {
            "label_0": "mine",
            "label": "mine",
            "full_0": "x",
            "limit": 10,
            "new_lessee": "me",
            "new_lease_until": 1,
        }
        for prepared in [overdue, due_jobs.any, *(due_jobs.lock if due_jobs.take is None else [due_jobs.take])]:
            assert reads(url, table_name, prepared.statement, values) < 1000, str(prepared.statement)


@pytest.mark.slow
@pytest.mark.parametrize("has_ended", [False, True], ids=["new table", "table of ended jobs"])
def test_a_backlog_is_not_read_before_the_server_has_statistics_about_it(
    url: str, table_name: str, has_ended: bool
) -> None:
    with closing(SQLStore(url, table_name=table_name)) as store:
        if is_postgresql(url):
            _execute("postgresql", url, f"ALTER TABLE {table_name} SET (autovacuum_enabled = false)")
        if has_ended:
            store.create(draft("over"))
            store.change("over", Expect(), ended(failed("over")))
            many(url, table_name, "over", 10000)
        store.create(Draft(id="due", request=Request("GET", "/work"), label="mine"))
        many(url, table_name, "due", 10000, analyze=False)
        due_jobs = store._sql.leases.due(labels=1, full=0, queues=0)
        values = {"label_0": "mine", "limit": 10, "new_lessee": "me", "new_lease_until": 1}
        expect, changes = claimed("token", 1, 18)
        claim = store._sql.change(assignments(changes, After()), conditions(expect), expect).write
        for prepared in (
            *(due_jobs.lock if due_jobs.take is None else [due_jobs.take]),
            claim,
            store._sql.report.write,
        ):
            wanted = {name: values.get(name, 1) for name in prepared.statement.compile().params}
            wanted |= dict.fromkeys({"old_id", "new_token", "old_token"} & wanted.keys(), "due")
            wanted |= dict.fromkeys({"new_waiting_for", "new_expires", "new_text"} & wanted.keys())
            assert reads(url, table_name, prepared.statement, wanted) < 1000, str(prepared.statement)


def many(url: str, table_name: str, job_id: str, count: int, *, analyze: bool = True) -> None:
    kind = "postgresql" if is_postgresql(url) else "mariadb"
    mark = '"' if kind == "postgresql" else "`"
    names = [f"{mark}{name}{mark}" for name in _columns(kind, url, table_name)]
    values = ["concat(id, CAST(n AS CHAR(6)))" if name == f"{mark}id{mark}" else name for name in names]
    numbers = _NUMBERS[kind].format(count=count)
    _execute(
        kind,
        url,
        f"INSERT INTO {table_name} ({', '.join(names)}) SELECT {', '.join(values)} FROM {table_name} AS job "
        f"CROSS JOIN {numbers} WHERE id = '{job_id}'",
        *([f"ANALYZE {'' if kind == 'postgresql' else 'TABLE '}{table_name}"] if analyze else []),
    )


def reads(url: str, table_name: str, statement: Any, values: dict[str, Any]) -> int:
    """The number of rows that the server reads for a statement."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        if not is_postgresql(url):
            connection.exec_driver_sql("FLUSH STATUS")
            connection.execute(statement, values).close()
            status = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'").all()
            return sum(int(count) for _, count in status)

        @event.listens_for(connection, "before_cursor_execute", retval=True)
        def explained(*arguments: Any) -> tuple[str, Any]:
            return f"EXPLAIN (ANALYZE, FORMAT JSON) {arguments[2]}", arguments[3]

        cursor: Any = connection.execute(statement, values).cursor
        (plans,) = cursor.fetchone()
        return rows_of(plans[0]["Plan"])


def rows_of(plan: Any) -> int:
    own = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
    return int(own * plan["Actual Loops"]) + sum(map(rows_of, plan.get("Plans", ())))
