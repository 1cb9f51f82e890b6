"""`DjangoStore` keeps the contract of every store, on each database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

from backjob.django.models import Job, Output
from backjob.django.store import DjangoStore
from backjob.lifecycle import claimed, completed, ended
from backjob.model import Draft, Expect, Report, Request
from backjob.protocols import Clock, Store
from backjob.testing import StoreContract


class _Closing:
    """A store that closes the connections of a race's threads, as Django does at the end of a request."""

    def __init__(self, store: DjangoStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return method(*arguments, **options)
            finally:
                if threading.current_thread() is not threading.main_thread():
                    connections[self._store.using].close()

        return call if callable(method) else method


@pytest.mark.slow
@pytest.mark.usefixtures("any_database")
@pytest.mark.parametrize("any_database", ["sqlite", "postgresql", "mariadb"], indirect=True)
def test_a_delete_is_part_of_the_callers_transaction() -> None:
    store = DjangoStore()
    store.create(Draft(id="job", request=Request("GET", "/work")))
    store.change("job", *claimed("token", 1, 60))
    store.report("job", "token", Report(output="line", truncated=True, tail="end"))
    with transaction.atomic():
        assert store.delete("job")
        assert store.get("job") is None
        transaction.set_rollback(True)
    assert store.output("job").tail == "end"
    with transaction.atomic():
        assert store.delete("job")
    assert store.get("job") is None
    assert store.delete("job") is False


class Contract(StoreContract):
    alias: str
    examples, steps, race_examples, racers, purged_in_batches = 5, 20, 3, 4, 41
    jobs_in_a_beat = 200

    @pytest.fixture(autouse=True)
    def _small_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("backjob.django.store.PURGED_AT_ONCE", 20)

    def make_store(self, clock: Clock) -> Store:
        Output.objects.using(self.alias).all().delete()
        Job.objects.using(self.alias).all().delete()
        store: Any = _Closing(DjangoStore(self.alias, clock=clock))
        closing: Store = store
        return closing


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("sqlite")
class TestOnSQLite(Contract):
    alias = "default"
    examples, steps = 4, 15


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("postgresql")
class TestOnPostgreSQL(Contract):
    alias = "postgresql"


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("mariadb")
class TestOnMariaDB(Contract):
    alias = "mariadb"


# create, claim, update, update with output, end
STATEMENTS = {"sqlite": (1, 1, 1, 2, 1), "postgresql": (1, 1, 1, 1, 1), "mariadb": (1, 2, 1, 2, 2)}
"""Without those that begin and end a transaction, which only an update with output needs, and not in PostgreSQL."""


@pytest.mark.slow
@pytest.mark.usefixtures("any_database")
@pytest.mark.parametrize("any_database", STATEMENTS, indirect=True)
def test_each_step_of_a_job_takes_as_few_statements_as_the_database_allows(any_database: str) -> None:
    store, connection = DjangoStore(), connections["default"]
    calls: list[Callable[[], object]] = [
        lambda: store.create(Draft(id="job", request=Request("GET", "/work"))),
        lambda: store.change("job", *claimed("token", 1, 60)),
        lambda: store.report("job", "token", Report(progress=5)),
        lambda: store.report("job", "token", Report(output="line\n")),
        lambda: store.change("job", Expect(token="token"), ended(completed())),
    ]
    found = []
    for call in calls:
        with CaptureQueriesContext(connection) as captured:
            assert call()
        found.append([query["sql"] for query in captured if not query["sql"].startswith(("BEGIN", "COMMIT", "SET"))])
    assert tuple(map(len, found)) == STATEMENTS[any_database], found


@pytest.mark.slow
@pytest.mark.usefixtures("any_database")
@pytest.mark.parametrize("any_database", STATEMENTS, indirect=True)
def test_a_thousand_running_jobs_renew_in_one_write() -> None:
    store = DjangoStore()
    tokens = {f"job {number}": f"token {number}" for number in range(1000)}
    with transaction.atomic():
        for job_id, token in tokens.items():
            store.create(Draft(id=job_id, request=Request("GET", "/work")))
            assert store.change(job_id, *claimed(token, 1, 18))
    with CaptureQueriesContext(connections["default"]) as captured:
        assert store.beat(tokens, 60, frozenset(tokens)) == frozenset()
    statements = [query["sql"] for query in captured]
    writes = [sql for sql in statements if sql.startswith("UPDATE")]
    assert len(writes) == 1
    assert len(statements) <= 4, [sql[:60] for sql in statements]  # beside it, a transaction and one read
    assert Job.objects.filter(lease_until__gt=store.get("job 0").read_time.timestamp() * 1e6 + 50e6).count() == 1000  # type: ignore[union-attr]
