"""Migrations on each kind of database: applied and reversed beside other apps, and over the tables of the first version.

``first_version/`` has what 0.1.0 made: its tables, and rows of jobs in every status. It is never made anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from django.core.management import call_command
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder

from backjob import Status
from backjob.django.store import DjangoStore
from backjob.errors import StoreError
from backjob.lifecycle import cancelled, claimed, ended
from backjob.model import Changes, Draft, Expect, Query, Report, Request
from backjob.testing import FakeClock
from tests.adapters.django.sites import ANY_DATABASE
from tests.services import MARIADB, POSTGRES, own_name

FIRST: Final = Path(__file__).parent / "first_version"
ROWS: Final = json.loads((FIRST / "rows.json").read_text(encoding="utf-8"))
ALIAS: Final = "first"
TABLES: Final = ("backjob_job", "backjob_output")
OUTPUT: Final = "first line\nzweite Zeile: ü\nthird\n"
NEXT_YEAR: Final = datetime(2027, 12, 1, tzinfo=UTC)


@pytest.fixture(params=ANY_DATABASE)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A kind of database, with an empty one at the alias "first"."""
    if request.param == "sqlite":
        with _known({**connections.settings["default"], "NAME": str(tmp_path / "first.db")}):
            yield request.param
        return
    {"postgresql": POSTGRES, "mariadb": MARIADB}[request.param].require()
    name = own_name()
    server = connections[request.param].copy()
    with server.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    try:
        with _known({**connections.settings[request.param], "NAME": name}):
            yield request.param
    finally:
        with server.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name}")
        server.close()


@contextmanager
def _known(settings: dict[str, Any]) -> Iterator[None]:
    """Configure a database with these settings at the alias within the block."""
    connections.settings[ALIAS] = settings
    try:
        yield
    finally:
        connections[ALIAS].close()
        del connections[ALIAS], connections.settings[ALIAS]


def migrate(*arguments: str) -> None:
    call_command("migrate", *arguments, database=ALIAS, verbosity=0)


def execute(file: str) -> None:
    with connections[ALIAS].cursor() as cursor:
        for statement in filter(str.strip, (FIRST / file).read_text(encoding="utf-8").split(";\n")):
            cursor.execute(statement)


def tables() -> set[str]:
    with connections[ALIAS].cursor() as cursor:
        return set(connections[ALIAS].introspection.table_names(cursor)) & set(TABLES)


def shape() -> Any:
    """The database's columns and constraints; names that it chose itself are left out."""
    introspection: Any = connections[ALIAS].introspection
    named = " ".join(path.read_text(encoding="utf-8") for path in FIRST.glob("*.sql"))
    found = {}
    with connections[ALIAS].cursor() as cursor:
        for table in TABLES:
            columns = [tuple(column) for column in introspection.get_table_description(cursor, table)]
            constraints = introspection.get_constraints(cursor, table).items()
            found[table] = (
                columns,
                sorted(
                    (name if name in named else "", sorted((fact, str(value)) for fact, value in facts.items()))
                    for name, facts in constraints
                ),
            )
    return found


def insert_rows() -> None:
    with connections[ALIAS].cursor() as cursor:
        for table, rows in ROWS.items():
            for row in rows:
                values = [bytes.fromhex(value["hex"]) if isinstance(value, dict) else value for value in row.values()]
                names = ", ".join(map(connections[ALIAS].ops.quote_name, row))
                marks = ", ".join(["%s"] * len(row))
                cursor.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", values)


def stored_rows() -> Any:
    """The values of the first version's columns."""
    found: dict[str, list[dict[str, Any]]] = {}
    with connections[ALIAS].cursor() as cursor:
        for table, rows in ROWS.items():
            cursor.execute(f"SELECT * FROM {table} ORDER BY 1")
            names = [column[0] for column in cursor.description]
            stored = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
            found[table] = [
                {name: _plain(row[name], is_text=isinstance(first[name], str)) for name in first}
                for first, row in zip(rows, stored, strict=True)
            ]
    return found


def _plain(value: Any, *, is_text: bool) -> Any:
    if isinstance(value, bytes | memoryview):
        return bytes(value).decode() if is_text else {"hex": bytes(value).hex()}
    return value


@pytest.mark.slow
@pytest.mark.usefixtures("kind")
def test_migrations_create_and_drop_tables_without_touching_other_apps() -> None:
    migrate()
    assert tables() == set(TABLES)
    store = DjangoStore(ALIAS)
    store.create(Draft(id="new", request=Request("GET", "/see", ())))
    assert [job.id for job in store.find(Query())] == ["new"]
    migrate("backjob", "zero")
    assert tables() == set()
    migrate()
    assert store.find(Query()) == []


def test_the_first_migration_creates_the_tables_of_the_first_version(kind: str) -> None:
    migrate("backjob", "0001")
    made = shape()
    migrate("backjob", "zero")
    execute(f"{kind}.sql")
    assert made == shape()


def test_only_a_delivery_reads_the_body_of_a_request(kind: str) -> None:
    migrate("backjob")
    store = DjangoStore(ALIAS, clock=FakeClock(NEXT_YEAR))
    request = Request("POST", "/work", body=b"body")
    assert store.create(Draft(id="job", request=request)).request == request
    with connections[ALIAS].cursor() as cursor:
        cursor.execute("ALTER TABLE backjob_job DROP COLUMN body")
    assert store.get("job") is not None
    assert len(store.find(Query())) == store.count(Query()) == 1
    assert store.change("job", *claimed("token", 1, 60.0)) is not None
    assert store.report("job", "token", Report(progress=5, output="line"))
    with pytest.raises(StoreError):
        store.get("job", body=True)


@pytest.mark.slow
def test_jobs_of_the_second_version_survive_the_next_migration(kind: str) -> None:
    migrate("backjob", "0003")
    columns = list(ROWS["backjob_job"][0])
    insert_rows()
    before = stored_rows()
    with connections[ALIAS].cursor() as cursor:
        cursor.execute("UPDATE backjob_job SET label = 'mine', waiting_for = 'proof', root = id")
    migrate("backjob", "0004")
    assert stored_rows() == before
    migrate("backjob")
    assert stored_rows() == before
    store = DjangoStore(ALIAS, clock=FakeClock(NEXT_YEAR))
    jobs = store.find(Query(labels=frozenset(("mine",))))
    assert len(jobs) == len(before["backjob_job"])
    assert {(job.label, job.waiting_for, job.root == job.id) for job in jobs} == {("mine", "proof", True)}
    assert {(job.run, job.delivery, job.queue, job.slot) for job in jobs} == {(1, 1, "default", None)}
    assert store.change("started", Expect(), Changes(deliver_by=None)) is not None
    assert store.beat({"running": "token-of-running"}, 18, frozenset()) == frozenset()
    migrate("backjob", "0003")
    assert "run" not in shape_columns()
    assert set(columns) <= shape_columns()
    migrate("backjob")
    assert "run" in shape_columns(), kind


@pytest.mark.slow
def test_jobs_of_the_third_version_survive_the_next_migration(kind: str) -> None:
    migrate("backjob", "0004")
    columns = shape_columns()
    insert_rows()
    before = stored_rows()
    with connections[ALIAS].cursor() as cursor:
        cursor.execute("UPDATE backjob_job SET label = 'mine', queue = 'exports', run = 3, expires = 9")
        if kind == "postgresql":  # the rows have brought their numbers
            cursor.execute("ALTER TABLE backjob_job ALTER COLUMN seq RESTART WITH 100")
    migrate("backjob", "0005")
    assert stored_rows() == before
    assert shape_columns() == columns | {"title", "method", "path", "keep_request", "file", "error"}
    store = DjangoStore(ALIAS, clock=FakeClock(NEXT_YEAR))
    jobs = store.find(Query(labels=frozenset(("mine",))))
    assert len(jobs) == len(before["backjob_job"])
    assert {(job.queue, job.run, job.title, job.keep_request, job.file) for job in jobs} == {
        ("exports", 3, None, False, None)
    }
    found = {job.id: (job.method, job.path) for job in jobs}
    assert found["started"] == ("POST", "/export/2026/work/"), "a job that has its request shows where it goes"
    assert found["completed"] == ("", None)
    draft = Draft(id="new", request=Request("PUT", "/work", body=b"rows"), title="Rows", keep_request=True)
    created = store.create(draft)
    store.change("new", *claimed("token", 1, 60.0))
    assert store.report("new", "token", Report(output="x", truncated=True, tail="ü"))
    assert store.change("new", Expect(), ended(cancelled(), created)) is not None
    new = store.get("new", body=True)
    assert new is not None
    assert (new.title, new.method, new.path, new.request) == ("Rows", "PUT", "/work", draft.request)
    assert store.output("new").tail == "ü"
    migrate("backjob", "0004")
    assert shape_columns() == columns, kind
    migrate("backjob")
    assert next(job.id for job in store.find(Query())) == "new"


def shape_columns() -> set[str]:
    with connections[ALIAS].cursor() as cursor:
        return {column.name for column in connections[ALIAS].introspection.get_table_description(cursor, "backjob_job")}


def test_jobs_of_the_first_version_survive_the_migrations(kind: str) -> None:
    execute(f"{kind}.sql")
    insert_rows()
    assert stored_rows() == ROWS
    recorder = MigrationRecorder(connections[ALIAS])
    recorder.ensure_schema()
    recorder.record_applied("backjob", "0001_initial")
    migrate("backjob")
    assert stored_rows() == ROWS

    store = DjangoStore(ALIAS, clock=FakeClock(NEXT_YEAR))
    jobs = {job.id: job for job in store.find(Query())}
    assert {job_id: (job.status, job.progress) for job_id, job in jobs.items()} == {
        "started": (Status.STARTED, 0),
        "started-sealed": (Status.STARTED, 0),
        "running": (Status.IN_PROGRESS, 42),
        "completed": (Status.COMPLETED, 100),
        "failed": (Status.FAILED, 42),
        "cancelled": (Status.CANCELLED, 42),
    }
    assert {store.output(job_id).text for job_id in jobs if not job_id.startswith("started")} == {OUTPUT}
    assert jobs["completed"].result == {"href": "/export.csv", "rows": [1, None]}
    assert (jobs["failed"].status_text, jobs["cancelled"].status_text) == ("LookupError: left", "cancelled")
    assert (jobs["started-sealed"].sealed, jobs["completed"].request) == (b"\x00\xffsealed", None)
    assert {(job.label, job.proof, job.root, job.waiting_for) for job in jobs.values()} == {("", None, None, None)}
    assert {(job.run, job.delivery, job.retries, job.retry_delay) for job in jobs.values()} == {(1, 1, 0, 10.0)}
    assert {(job.queue, job.slot, job.as_owner, job.expires) for job in jobs.values()} == {
        ("default", None, False, None)
    }
    assert {(job.cursor, job.history, job.claimed_time) for job in jobs.values()} == {(None, None, None)}
    started = store.get("started", body=True)
    assert started is not None
    request = started.request
    assert request is not None
    assert (request.method, request.target, request.body) == (
        "POST",
        "/export/2026/work/?of=started",
        "name=Ünal".encode(),
    )
    assert store.create(Draft(id="another", request=request), "unfinished:5f0c").id == "started"

    claim = store.change("started", *claimed("token", 1, 60.0))
    assert claim is not None
    assert store.report("started", "token", Report(progress=10, output="begun\n"))
    assert store.output("started").text == "begun\n"
    assert store.report("running", "token-of-running", Report(progress=50, output="fourth\n"))
    running = store.get("running")
    assert running is not None
    assert (running.progress, store.output("running").text) == (50, OUTPUT + "fourth\n")
    by_token = Expect(status=Status.IN_PROGRESS, token="token-of-running")
    assert store.change("running", by_token, ended(cancelled())) is not None

    assert store.beat({"started": "token", "running": "token-of-running"}, 18, frozenset()) == {"running"}
    assert store.purge(86400, 86400) == 3
    assert {job.id for job in store.find(Query())} == {"started", "started-sealed", "running"}
    with connections[ALIAS].cursor() as cursor:
        cursor.execute("SELECT DISTINCT job FROM backjob_output ORDER BY job")
        assert [row[0] for row in cursor.fetchall()] == [1, 3]
