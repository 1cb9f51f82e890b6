"""The tables of SQLStore on real servers: the printed SQL, creation, refusal of other layouts, Alembic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier
from typing import Any, Final

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from attrs import frozen
from sqlalchemy import Engine, create_engine, inspect, text

from backjob.errors import StoreError, StoreUnusable
from backjob.lifecycle import claimed
from backjob.model import Draft, Query, Report, Request
from backjob.stores import open_store
from backjob.stores.rows import moment
from backjob.stores.sql import SQLStore, metadata
from backjob.testing import FakeClock
from tests.services import MARIADB, POSTGRES, own_name
from tests.shared_stores import with_options

pytestmark = pytest.mark.services

DEADLINE: Final = 60  # s
EARLIER: Final = ("first_version", "second_version", "third_version")
"""The SQL that earlier versions printed. It is never generated again."""
INDICES: Final = frozenset(
    f"backjob_{name}"
    for name in ("merging", "living", "ended", "ageing", "owned", "scoped", "chained", "limits", "slots")
)


@frozen
class Place:
    """An empty schema of a server."""

    url: str
    dialect: str
    schema: str
    engine: Engine

    def open(self, **arguments: Any) -> SQLStore:
        return SQLStore(self.url, schema=self.schema, **arguments)

    def do(self, *statements: str) -> None:
        """Execute these statements, through no store."""
        with self.engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))

    def tables(self) -> list[str]:
        return sorted(inspect(self.engine).get_table_names(schema=self.schema))

    def indices(self) -> set[str | None]:
        return {index["name"] for index in inspect(self.engine).get_indexes("backjob", schema=self.schema)}

    def named(self, table: str) -> str:
        return f"{self.schema}.{table}"


@pytest.fixture(params=["postgresql", "mariadb"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    dialect: str = request.param
    url = (POSTGRES if dialect == "postgresql" else MARIADB).require()
    engine = create_engine(url)
    place = Place(url, dialect, own_name(), engine)
    place.do(f"CREATE SCHEMA {place.schema}")
    yield place
    place.do(f"DROP SCHEMA {place.schema}" + (" CASCADE" if dialect == "postgresql" else ""))
    engine.dispose()


def works(store: SQLStore) -> bool:
    """Whether a job can be written and read, in a store that is then closed."""
    with closing(store):
        store.create(Draft(id="job", request=Request("GET", "/work")), "key")
        return store.get("job") is not None


def test_the_printed_sql_creates_what_the_store_needs(place: Place) -> None:
    printed = SQLStore.schema(place.dialect, schema=place.schema)
    place.do(*[statement for statement in printed.split(";\n") if statement.strip()])
    assert works(place.open(create_table=False))
    indices = place.indices()
    with closing(place.open()):  # nothing is missing
        assert place.indices() == indices
    assert indices - {"backjob_id"} == INDICES


def test_the_store_creates_the_same_tables_as_the_printed_sql(place: Place) -> None:
    with closing(place.open()):
        created = [columns_of(place, table) for table in place.tables()], place.indices()
    place.do(*[f"DROP TABLE {place.named(table)}" for table in ("backjob_output", "backjob")])
    printed = SQLStore.schema(place.dialect, schema=place.schema)
    place.do(*[statement for statement in printed.split(";\n") if statement.strip()])
    assert ([columns_of(place, table) for table in place.tables()], place.indices()) == created


def columns_of(place: Place, table: str) -> list[tuple[str, str, bool]]:
    columns = inspect(place.engine).get_columns(table, schema=place.schema)
    return [(column["name"], str(column["type"]), column["nullable"]) for column in columns]


@pytest.mark.parametrize("earlier", EARLIER)
def test_the_error_for_tables_of_an_earlier_version_prints_the_sql_that_upgrades_them(
    place: Place, earlier: str
) -> None:
    sql = (Path(__file__).parent / earlier / f"{place.dialect}.sql").read_text(encoding="utf-8")
    here = f"SET LOCAL search_path TO {place.schema}" if place.dialect == "postgresql" else f"USE {place.schema}"
    place.do(here, *statements_of(sql))
    insert_old(place, "old", status=0, token=None)
    insert_old(place, "running", status=1, token="token")
    for create_table in (True, False):
        with pytest.raises(StoreUnusable, match="earlier version of backjob; run this SQL once:") as caught:
            works(place.open(create_table=create_table))
    place.do(*statements_of(str(caught.value).partition("once:\n")[2]))
    with closing(place.open(clock=FakeClock(moment(1)))) as store:
        running, old = store.find(Query())
        assert (old.id, old.label, old.proof, old.root, old.waiting_for) == ("old", "", None, None, None)
        assert (old.run, old.delivery, old.retries, old.retry_delay, old.queue) == (1, 1, 0, 10.0, "default")
        assert (old.slot, old.as_owner, old.cursor, old.history, old.claimed_time, old.expires) == (
            *(None, False),
            *(None,) * 4,
        )
        assert (old.title, old.method, old.path, old.keep_request, old.file) == (None, "", None, False, None)
        assert old.deliver_by == moment(2)
        assert store.beat({"running": "token"}, 5, frozenset()) == frozenset(), "its process took no lease of the run"
        mine = frozenset(("mine",))
        new = store.create(Draft(id="new", request=Request("GET", "/work"), label="mine"))
        assert new.deliver_by is None
        assert [job.id for job in store.find(Query(labels=mine))] == ["new"]
        assert [job.id for job in store.take_due("me", 60, 10, mine)] == ["new"]
        assert store.change("new", *claimed("new token", 1, 18)) is not None
        assert running.lease_until is None
    upgraded = [sorted(columns_of(place, table)) for table in place.tables()], index_columns(place)
    place.do(*[f"DROP TABLE {place.named(table)}" for table in ("backjob_output", "backjob")])
    place.open().close()
    assert ([sorted(columns_of(place, table)) for table in place.tables()], index_columns(place)) == upgraded


def insert_old(place: Place, job_id: str, *, status: int, token: str | None) -> None:
    """A row as the first version wrote it, whose columns the second has too."""
    place.do(
        f"INSERT INTO {place.named('backjob')} (id, status, progress, output_size, output_truncated, created_time, "
        "start_time, deliver_by, updated_time, error_timeout, attempt, version, held, depth, scope, token) "
        f"VALUES ('{job_id}', {status}, 0, 0, 0, 1, 1, 2, 1, 60000000, 1, 1, 0, 0, 's', "
        + ("NULL)" if token is None else f"'{token}')")
    )


def test_tables_of_the_version_before_get_all_columns_by_one_statement_and_one_index(place: Place) -> None:
    """None of their columns changes, so nothing rebuilds the table, and no columns can be half done."""
    columns, *index = upgrade_of(place, EARLIER[-1])
    assert columns.startswith("ALTER TABLE")
    assert ["DROP INDEX" in index[0], "CREATE INDEX" in index[1]] == [True] * len(index)
    assert all("backjob_living" in statement for statement in index)


@pytest.mark.parametrize("earlier", EARLIER[:-1])
def test_an_upgrade_that_fails_after_its_first_statement_is_printed_again(place: Place, earlier: str) -> None:
    """In MariaDB each statement commits."""
    statements = upgrade_of(place, earlier)
    place.do(statements[0])
    with pytest.raises(StoreUnusable) as again:
        works(place.open())
    assert statements_of(str(again.value).partition("once:\n")[2]) == statements


def upgrade_of(place: Place, earlier: str) -> list[str]:
    """Create the tables of an earlier version, and return the statements that the store prints for them."""
    sql = (Path(__file__).parent / earlier / f"{place.dialect}.sql").read_text(encoding="utf-8")
    here = f"SET LOCAL search_path TO {place.schema}" if place.dialect == "postgresql" else f"USE {place.schema}"
    place.do(here, *statements_of(sql))
    with pytest.raises(StoreUnusable, match="run this SQL once:") as caught:
        works(place.open())
    return statements_of(str(caught.value).partition("once:\n")[2])


def statements_of(sql: str) -> list[str]:
    return [statement for statement in sql.split(";\n") if statement.strip()]


def index_columns(place: Place) -> dict[str | None, Any]:
    found = inspect(place.engine).get_indexes("backjob", schema=place.schema)
    return {index["name"]: index["column_names"] for index in found}


def test_without_create_table_the_store_creates_nothing(place: Place) -> None:
    with closing(place.open(create_table=False)) as store:
        for _ in range(2):
            with pytest.raises(StoreUnusable, match=r"no table '.*backjob'.*create_table=True.*backjob schema"):
                store.get("job")
        assert place.tables() == []
        place.open().close()
        assert store.get("job") is None


@pytest.mark.parametrize("create_table", [True, False])
@pytest.mark.parametrize("table", ["backjob", "backjob_output"])
def test_a_table_of_another_layout_is_refused_and_not_changed(place: Place, table: str, create_table: bool) -> None:
    place.do(f"CREATE TABLE {place.named(table)} (id INTEGER, colour INTEGER)")
    with pytest.raises(
        StoreUnusable, match=rf"'.*backjob' have another layout.*{table}: .*colour.*table_name"
    ) as caught:
        works(place.open(create_table=create_table))
    assert "scope" in str(caught.value) or table == "backjob_output"
    assert place.tables() == [table]


def test_one_additional_or_missing_column_is_another_layout(place: Place) -> None:
    place.open().close()
    table = place.named("backjob")
    place.do(f"ALTER TABLE {table} ADD COLUMN colour INTEGER")
    with pytest.raises(StoreUnusable, match=r"\(see \S*backjob: colour\)"):
        place.open()
    place.do(f"ALTER TABLE {table} DROP COLUMN colour", f"ALTER TABLE {table} DROP COLUMN depth")
    with pytest.raises(StoreUnusable, match=r"\(see \S*backjob: depth\)"):
        place.open()


def test_a_missing_table_of_output_is_created_or_named(place: Place) -> None:
    place.open().close()
    place.do(f"DROP TABLE {place.named('backjob_output')}")
    with pytest.raises(StoreUnusable, match=r"no table '\S*backjob_output'"):
        works(place.open(create_table=False))
    assert works(place.open())


def test_a_table_that_is_dropped_later_is_named(place: Place) -> None:
    with closing(place.open()) as store:
        place.do(f"DROP TABLE {place.named('backjob')}", f"DROP TABLE {place.named('backjob_output')}")
        with pytest.raises(StoreUnusable, match=r"no table '\S*backjob'"):
            store.get("job")


def test_a_half_finished_creation_is_completed(place: Place) -> None:
    statements = SQLStore.schema(place.dialect, schema=place.schema).split(";\n")
    place.do(*statements[:3])  # the table, and two of its indices
    assert not place.indices() >= INDICES
    assert works(place.open())
    assert place.indices() >= INDICES


def test_stores_that_open_at_once_create_the_tables_once(place: Place) -> None:
    barrier = Barrier(6, timeout=DEADLINE)

    def open_one(_: int) -> SQLStore:
        barrier.wait()
        return place.open()

    with ThreadPoolExecutor(6) as pool:
        stores = list(pool.map(open_one, range(6), timeout=DEADLINE))
    for store in stores:
        with closing(store):
            assert store.get("job") is None
    assert place.tables() == ["backjob", "backjob_output"]
    assert {f"backjob_{name}" for name in ("merging", "scoped")} <= place.indices()


def test_two_table_names_are_two_stores(place: Place) -> None:
    with closing(place.open()) as one, closing(place.open(table_name="order")) as other:
        one.create(Draft(id="job", request=Request("GET", "/work")))
        assert other.get("job") is None
    assert place.tables() == ["backjob", "backjob_output", "order", "order_output"]


def test_the_options_of_a_url_are_the_constructors_arguments(place: Place) -> None:
    url = with_options(place.url, table_name="work", create_table="no", schema=place.schema)
    with closing(open_store(url)) as store:
        with pytest.raises(StoreUnusable, match=r"no table '.*work'"):
            store.get("job")
        place.open(table_name="work").close()
        assert store.get("job") is None


# --- Alembic --------------------------------------------------------------------------------------------------------


def differences(place: Place) -> list[Any]:
    """The differences that Alembic would write into a migration."""

    def is_included(name: str | None, kind: str, _: Any) -> bool:
        return name == place.schema if kind == "schema" else True

    target = metadata(schema=place.schema)
    options = {
        "target_metadata": target,
        "include_schemas": True,
        "include_name": is_included,
        "compare_type": True,
    }
    with place.engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), target))


def test_alembic_finds_no_difference_to_the_created_tables(place: Place) -> None:
    assert len(differences(place)) >= 2  # two tables, and in PostgreSQL their indices
    place.open().close()
    assert differences(place) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda place: f"ALTER TABLE {place.named('backjob')} ADD COLUMN colour INTEGER",
        lambda place: f"CREATE INDEX other ON {place.named('backjob')} (token)",
    ],
)
def test_alembic_finds_a_changed_table_and_a_new_index(place: Place, change: Callable[[Place], str]) -> None:
    place.open().close()
    place.do(change(place))
    assert differences(place) != []


def test_only_a_delivery_reads_the_body_of_a_request(place: Place) -> None:
    with closing(place.open()) as store:
        for job_id in ("job", "other"):
            store.create(Draft(id=job_id, request=Request("POST", "/work", body=b"body"), scope="s"), f"key {job_id}")
        place.do(f"ALTER TABLE {place.named('backjob')} DROP COLUMN body")
        assert store.get("job") is not None
        assert len(store.find(Query())) == store.count(Query(scope="s")) == 2
        assert store.change("job", *claimed("token", 1, 60.0)) is not None
        assert store.report("job", "token", Report(progress=5, output="line"))
        for read in (lambda: store.get("job", body=True), lambda: store.take_due("me", 60, 10)):
            with pytest.raises(StoreError):
                read()
