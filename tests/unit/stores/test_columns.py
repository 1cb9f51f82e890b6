"""The list of columns agrees with the values that it stores."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from attrs import evolve, fields

from backjob.model import Caller, Changes, Draft, Job, Request, Status
from backjob.stores.columns import COLUMNS, JOB_COLUMNS, LAYOUTS, Kind
from backjob.stores.rows import job_row, row_job
from backjob.stores.steps import dump_job, load_job, new_job

NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
EARLIER = [tuple(column.name for added in LAYOUTS[number:] for column in added) for number in range(len(LAYOUTS))]
"""The columns that each earlier version lacked."""


def test_each_field_of_a_job_is_a_column() -> None:
    """Except the caller, which is stored with the request, and the moment of reading."""
    assert {field.name for field in fields(Job)} - {"caller", "read_time"} == set(COLUMNS)


def test_columns_of_a_draft_and_of_changes_are_their_fields() -> None:
    """Except the request and the moments, which the store computes, and the flag that keeps the request."""
    names = ({field.name for field in fields(Draft)} | {"method", "path"}) & set(COLUMNS)
    assert {column.name for column in JOB_COLUMNS if column.draft} == names - {"request", "expires"}
    names = {field.name for field in fields(Changes)} & set(COLUMNS)
    assert {column.name for column in JOB_COLUMNS if column.changes} == names - {"deliver_by", "keep_request"}


def test_labels_alone_have_a_length_and_an_erased_column_may_be_null() -> None:
    assert all((column.length is not None) == (column.kind is Kind.LABEL) for column in JOB_COLUMNS)
    assert all(column.nullable for column in JOB_COLUMNS if column.erased)


def test_a_job_comes_back_from_its_row() -> None:
    job = Job(
        id="job",
        status=Status.FAILED,
        created_time=NOON,
        start_time=NOON,
        deliver_by=NOON,
        updated_time=NOON,
        end_time=NOON,
        read_time=NOON,
        error_timeout=2.25,
        output_truncated=True,
        lease_until=NOON,
        result={"rows": [1, 2.5, None]},
        method="POST",
        path="/work",
        title="Invoices",
        file={"name": "a.csv"},
        request=Request("POST", "/work", (("X-A", "\xe9"),), b"body"),
        caller=Caller("https", "example.org", "192.0.2.1"),
        held=True,
        sealed=b"\xff",
    )
    assert row_job((*job_row(job), b"body"), NOON) == job
    bare = evolve(job, request=None, caller=None, end_time=None, lease_until=None, result=None, sealed=None)
    assert row_job((*job_row(bare), None), NOON) == bare


@pytest.mark.parametrize("lacking", EARLIER)
def test_a_job_that_an_earlier_version_wrote_as_json_can_be_read(lacking: tuple[str, ...]) -> None:
    job = new_job(Draft(id="job", request=Request("GET", "/work")), None, NOON)
    row = json.loads(dump_job(job))
    assert load_job(json.dumps({name: row[name] for name in row if name not in lacking}), NOON) == job
