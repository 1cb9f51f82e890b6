"""A row of Django's table that was changed outside of backjob runs nothing; an untouched one does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections

from backjob.django.models import Job
from backjob.django.store import DjangoStore
from backjob.protocols import Store
from backjob.testing import FakeClock
from tests.tampering import EACH_COLUMN, Rows, Tampering, check_claimed, check_joined, check_kinds, check_sent

ALIAS = {"sqlite": "default"}


@pytest.fixture
def rows(any_database: str) -> Rows:
    """Raw SQL in Django's table."""
    alias, table = ALIAS.get(any_database, any_database), Job._meta.db_table

    def read(job_id: str, column: str) -> Any:
        with connections[alias].cursor() as cursor:
            cursor.execute(f"SELECT {column} FROM {table} WHERE id = %s", [job_id])
            return cursor.fetchone()[0]

    def write(job_id: str, column: str, value: Any) -> None:
        with connections[alias].cursor() as cursor:
            cursor.execute(f"UPDATE {table} SET {column} = %s WHERE id = %s", [value, job_id])

    return Rows(read, write)


@pytest.fixture
def open_store(any_database: str) -> Callable[[FakeClock], Store]:
    alias = ALIAS.get(any_database, any_database)
    return lambda clock: DjangoStore(alias, clock=clock)


@pytest.mark.parametrize("tampering", EACH_COLUMN, ids=str)
def test_nothing_is_sent_for_a_row_that_was_changed(
    open_store: Callable[[FakeClock], Store], rows: Rows, tampering: Tampering
) -> None:
    check_sent(open_store, rows, tampering)


@pytest.mark.slow
@pytest.mark.parametrize("tampering", EACH_COLUMN, ids=str)
def test_a_row_that_was_changed_after_its_request_was_sent_runs_no_other_action(
    open_store: Callable[[FakeClock], Store], rows: Rows, tampering: Tampering
) -> None:
    check_claimed(open_store, rows, tampering)


def test_a_merge_key_that_was_moved_to_another_row_lends_it_no_credentials(
    open_store: Callable[[FakeClock], Store], rows: Rows
) -> None:
    check_joined(open_store, rows)


@pytest.mark.parametrize("seal", [True, False], ids=["sealed", "anonymous"])
def test_an_untouched_row_of_each_kind_is_sent_and_runs(open_store: Callable[[FakeClock], Store], seal: bool) -> None:
    check_kinds(open_store, seal=seal)
