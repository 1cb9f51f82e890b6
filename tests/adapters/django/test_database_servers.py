"""A site on PostgreSQL and MariaDB: deadlocks with other transactions, and real requests in transactions."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import frozen
from django.db import connections, transaction

from backjob import Status
from backjob.django import database as database_module
from backjob.django.models import Job
from backjob.django.store import DjangoStore
from backjob.endings import write_end, write_report
from backjob.errors import SlotTaken, StoreUnavailable
from backjob.lifecycle import cancelled, claimed, ended, failed
from backjob.model import Changes, Draft, Expect, Report, Request
from tests.adapters.django.sites import Site, serving
from tests.scenarios.client import Gate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("any_database"),
    pytest.mark.parametrize("any_database", ["postgresql", "mariadb"], indirect=True),
]

DEADLINE: Final = 30.0
_WAITS: Final = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid = %s",
    "mysql": "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT' AND trx_mysql_thread_id = %s",
}
_LIVING: Final = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE pid = %s",
    "mysql": "SELECT count(*) FROM information_schema.processlist WHERE id = %s",
}
_SESSION: Final = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT CONNECTION_ID()"}


def ask(connection: Any, sql: str, *values: object) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        row = cursor.fetchone() if cursor.description else None
        return row and row[0]


def patience(connection: Any, seconds: int) -> None:
    """Set how long this connection waits before it detects a deadlock; MariaDB rolls back the smaller transaction."""
    if connection.vendor == "postgresql":
        ask(connection, f"SET deadlock_timeout = '{seconds}s'")


@frozen
class Other:
    """Another transaction, on its own connection, which is never the victim of a deadlock."""

    connection: Any

    def lock(self, job_id: str) -> None:
        """Lock a job until the end of the transaction."""
        ask(self.connection, "UPDATE backjob_job SET depth = depth + 1 WHERE id = %s", job_id)

    @contextmanager
    def meanwhile(self, *steps: Callable[[], object]) -> Iterator[None]:
        """Run these steps in another thread, and commit."""
        errors: list[BaseException] = []

        def run() -> None:
            try:
                for step in (*steps, self.connection.commit):
                    step()
            except BaseException as error:
                errors.append(error)
                self.connection.rollback()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            thread.join(DEADLINE)
        assert errors == []


def waiting(connection: Any) -> Callable[[], None]:
    """Return a function that waits until this connection waits for a lock."""
    session = ask(connection, _SESSION[connection.vendor])
    beside = connection.copy()
    beside.inc_thread_sharing()

    def wait() -> None:
        deadline, pause = time.monotonic() + DEADLINE, threading.Event()
        with closing(beside):
            while not ask(beside, _WAITS[connection.vendor], session):
                assert time.monotonic() < deadline
                pause.wait(0.15)  # innodb_trx shows nothing new to a reader that asks more often than every 0.1 s

    return wait


@pytest.fixture
def other() -> Iterator[Other]:
    connection = connections["default"].copy()
    connection.inc_thread_sharing()
    patience(connection, 20)
    connection.set_autocommit(False)
    with connection.cursor() as cursor:  # much to undo
        pieces = [(0, start, b"x") for start in range(100)]
        cursor.executemany("INSERT INTO backjob_output (job, start, piece) VALUES (%s, %s, %s)", pieces)
    yield Other(connection)
    connection.rollback()
    connection.close()


@pytest.fixture
def store() -> DjangoStore:
    """A store with two running jobs."""
    store = DjangoStore("default")
    for job_id in ("a", "b"):
        store.create(Draft(id=job_id, request=Request("GET", "/see", ())))
        assert store.change(job_id, *claimed(f"token of {job_id}", 1, 60.0))
    return store


@pytest.fixture
def deadlocks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether every database error was a deadlock."""
    found: list[bool] = []

    def noted(error: BaseException | None, judge: Callable[..., bool] = database_module._is_deadlock) -> bool:
        found.append(judge(error))
        return found[-1]

    monkeypatch.setattr(database_module, "_is_deadlock", noted)
    return found


def test_the_store_repeats_its_own_transaction_after_a_deadlock(
    store: DjangoStore, other: Other, deadlocks: list[bool]
) -> None:
    patience(connections["default"], 3)
    for job_id in ("c", "d"):
        store.create(Draft(id=job_id, request=Request("GET", "/see", ())))
        assert store.change(job_id, Expect(), ended(cancelled()))
    other.lock("d")
    with other.meanwhile(waiting(connections["default"]), lambda: other.lock("c")):
        assert store.purge(0.0, 1e-6) == 2
    assert set(deadlocks) == {True}
    assert set(Job.objects.values_list("id", flat=True)) == {"a", "b"}


def test_a_renewal_waits_for_no_transaction_of_the_application(store: DjangoStore, other: Other) -> None:
    before = dict(Job.objects.values_list("id", "lease_until"))
    tokens = {"a": "token of a", "b": "token of b"}
    other.lock("a")
    hurry(connections["default"])
    assert store.beat(tokens, 100.0, frozenset(tokens)) == frozenset(), "a job that is locked is not stale"
    after = dict(Job.objects.values_list("id", "lease_until"))
    assert (after["a"], after["b"] > before["b"]) == (before["a"], True)
    other.connection.rollback()
    assert store.beat(tokens, 200.0, frozenset()) == frozenset()
    assert min(Job.objects.values_list("lease_until", flat=True)) > after["b"]


def hurry(connection: Any) -> None:
    """Have this connection wait for a lock for a second at most."""
    is_postgresql = connection.vendor == "postgresql"
    ask(connection, "SET lock_timeout = '1s'" if is_postgresql else "SET SESSION innodb_lock_wait_timeout = 1")


def test_due_jobs_wait_for_no_transaction_of_the_application(store: DjangoStore, other: Other) -> None:
    """Otherwise a view that cancels a job, and then takes its time before it commits, would hold up all other jobs."""
    for job_id in ("c", "d", "e", "f"):
        store.create(Draft(id=job_id, request=Request("GET", "/see", ())))
    other.lock("c")
    hurry(connections["default"])
    for expected in (["d"], ["e", "f"], []):
        assert [job.id for job in store.take_due("me", 60, max(1, len(expected)))] == expected
    other.connection.rollback()
    assert [job.id for job in store.take_due("me", 60, 10)] == ["c"]


def test_a_slot_waits_for_no_transaction_of_the_application(store: DjangoStore, other: Other) -> None:
    """The transaction may still be rolled back, so until it ends its slot is taken."""
    assert store.change("a", Expect(), Changes(slot="exports/0"))
    ask(other.connection, "UPDATE backjob_job SET slot = NULL WHERE id = 'a'")
    hurry(connections["default"])
    with pytest.raises(SlotTaken):
        store.change("b", Expect(), Changes(slot="exports/0"))
    other.connection.commit()
    assert store.change("b", Expect(), Changes(slot="exports/0"))


def test_the_end_of_a_lease_waits_for_no_transaction_of_the_application(store: DjangoStore, other: Other) -> None:
    """A view that cancels a running job keeps its lease from being renewed, and must not keep each monitor from its work."""
    dead = Expect(run=1, token="token of a", lease_over=True)
    assert store.change("a", Expect(), Changes(lease=-1.0))
    other.lock("a")
    hurry(connections["default"])
    assert store.change("a", dead, ended(failed("dead"))) is None
    other.connection.rollback()
    job = store.change("a", dead, ended(failed("dead")))
    assert job is not None
    assert job.status is Status.FAILED


def test_a_merge_ends_in_a_transaction_that_does_not_see_the_other_job(store: DjangoStore) -> None:
    """With repeatable reads, a transaction does not see what others have committed since it began to read."""
    connection = connections["default"]
    draft = Draft(id="f", request=Request("GET", "/see", ()))
    with closing(connection.copy()) as beside:
        beside.inc_thread_sharing()
        ask(connection, "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ"
            if connection.vendor == "postgresql" else "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")  # fmt: skip
        with transaction.atomic():
            assert Job.objects.count() == 2
            ask(beside, "UPDATE backjob_job SET merge_key = 'same' WHERE id = 'a'")
            try:
                joined = store.create(draft, merge_key="same").id
            except StoreUnavailable:  # PostgreSQL refuses to go on; the caller repeats its transaction
                joined = "a"
                transaction.set_rollback(True)
    assert joined == "a"


def test_a_slot_that_is_taken_does_not_spoil_the_callers_transaction(store: DjangoStore) -> None:
    assert store.change("a", Expect(), Changes(slot="exports/0"))
    with transaction.atomic():
        assert store.change("b", Expect(), Changes(progress=10))
        with pytest.raises(SlotTaken, match="exports/0"):
            store.change("b", Expect(), Changes(slot="exports/0"))
        assert store.change("b", Expect(), Changes(slot="exports/1", progress=20))
    job = store.get("b")
    assert job is not None
    assert (job.slot, job.progress) == ("exports/1", 20)


def test_a_lost_connection_fails_no_renewal(store: DjangoStore) -> None:
    """While no job runs, the leases' connection is idle, and a server ends such connections."""
    connection = connections["default"]
    session = ask(connection, _SESSION[connection.vendor])
    with closing(connection.copy()) as beside:
        ask(beside, "SELECT pg_terminate_backend(%s, 10000)" if beside.vendor == "postgresql" else "KILL %s", session)
        deadline, pause = time.monotonic() + DEADLINE, threading.Event()
        while ask(beside, _LIVING[beside.vendor], session):
            assert time.monotonic() < deadline, "the server did not end a session"
            pause.wait(0.02)
    assert store.beat({"a": "token of a", "b": "other"}, 100.0, frozenset()) == {"b"}
    assert ask(connection, _SESSION[connection.vendor]) != session


def test_a_deadlock_in_the_callers_transaction_is_raised(
    store: DjangoStore, other: Other, deadlocks: list[bool]
) -> None:
    def end_both(between: Callable[[], object] = bool) -> set[int]:
        with transaction.atomic():
            assert store.change("b", Expect(status=Status.IN_PROGRESS), ended(cancelled()))
            between()
            assert store.change("a", Expect(status=Status.IN_PROGRESS), ended(cancelled()))
        return statuses()

    def statuses() -> set[int]:
        return set(Job.objects.values_list("status", flat=True))

    patience(connections["default"], 1)
    other.lock("a")
    holds_b = threading.Event()
    other_waits = waiting(other.connection)

    def between() -> None:
        holds_b.set()
        other_waits()

    with (
        other.meanwhile(lambda: holds_b.wait(DEADLINE), lambda: other.lock("b")),
        pytest.raises(StoreUnavailable, match=r"(?i)deadlock"),
    ):
        end_both(between)
    assert (deadlocks, statuses()) == ([], {int(Status.IN_PROGRESS)})
    assert end_both() == {int(Status.CANCELLED)}


# --- character sets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("charset", ["utf8mb3", "latin1"])
def test_an_emoji_that_the_tables_character_set_lacks_keeps_no_job_running(any_database: str, charset: str) -> None:
    if any_database != "mariadb":
        pytest.skip("only MariaDB's tables have character sets")
    connection = connections["default"]
    alter = f"ALTER TABLE {Job._meta.db_table} MODIFY status_text LONGTEXT CHARACTER SET "
    ask(connection, alter + charset)
    try:
        store = DjangoStore()
        for job_id in ("a", "b"):
            store.create(Draft(id=job_id, request=Request("GET", "/"), due=0.0))
            store.change(job_id, *claimed(job_id, 1, 60.0))
        assert write_report(store, "a", "a", Report(progress=30, text="\U0001f600"))
        for job_id in ("a", "b"):
            running = store.get(job_id)
            assert running is not None
            job = write_end(store, running, Expect(token=job_id), failed("ä \U0001f600"))
            assert job is not None
            assert (job.status, r"\U0001f600" in (job.status_text or "")) == (Status.FAILED, True)
    finally:
        Job.objects.all().delete()
        ask(connection, alter + "utf8mb4")


# --- served ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["autocommit", "atomic requests"])
def site(request: pytest.FixtureRequest, any_database: str, tmp_path: Path) -> Iterator[Site]:
    """Run the project on gunicorn, with its tables in this database."""
    database = {**connections["default"].settings_dict, "ATOMIC_REQUESTS": request.param}
    with serving("gunicorn-threads", tmp_path, DATABASES={"default": database}) as site:
        yield site
    connections["default"].close()


def test_users_transactions_and_reports_on_a_separate_connection(site: Site) -> None:
    bo = site.browser()
    bo.get("/login/Bo")
    seen = bo.end(bo.start("see", method="POST", form={"name": "Ünal"}))
    assert (seen["status_name"], seen["result"]["user"], seen["owner"]) == ("COMPLETED", "Bo", seen["result"]["owner"])
    within = json.loads(bo.request("POST", "/start-within", b'{"path": "within"}').text)
    state = bo.end(within)
    assert (state["status_name"], state["status_text"]) == ("COMPLETED", "within")
    assert bo.request("GET", f"/backjob/{state['result']}").status == 404  # started in what was undone
    left = bo.end(bo.start("within", query={"leave": 1}))
    assert (left["status_name"], left["status_text"]) == ("FAILED", f"internal error (job {left['id']})")
    assert bo.get(f"/backjob/{left['id']}/output").json()["text"] == "from within\n"
    with Gate() as gate:
        held = bo.start("hold", query={"gate": gate.port, "write": "job", "touch": 1})
        action = gate.reached()
        bo.get("/note/page")
        action.proceed()
        action.release()
    assert bo.end(held)["status_text"] == "held"
    assert bo.get("/notes").json() == ["job", "page"]
    ids = [bo.start("report-within") for _ in range(8)]
    assert {bo.end(each)["status_name"] for each in ids} == {"COMPLETED"}
