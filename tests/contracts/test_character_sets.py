"""A table on MariaDB whose text columns lack characters: reports and ends are written all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
from sqlalchemy import create_engine, text

from backjob.lifecycle import Requeue, completed, concluded, failed, history_of
from backjob.model import Expect, Report, Status
from backjob.stores.sql import SQLStore, metadata
from backjob.worker.outcomes import Outcome
from tests.services import MARIADB, own_name
from tests.unit.core import Bench, bench

pytestmark = pytest.mark.services

TEXT: Final = "ä€ \U0001f600"


@pytest.fixture(params=["utf8mb3", "latin1"])
def world(request: pytest.FixtureRequest) -> Iterator[Bench]:
    name = own_name()
    engine = create_engine(MARIADB.require())
    store = SQLStore(engine, table_name=name)
    with engine.begin() as connection:
        for column in ("status_text", "result", "cursor", "history"):
            connection.execute(text(f"ALTER TABLE {name} MODIFY `{column}` LONGTEXT CHARACTER SET {request.param}"))
    yield bench(store=store)
    metadata(table_name=name).drop_all(engine)
    engine.dispose()


def test_an_emoji_in_an_exception_ends_the_job(world: Bench) -> None:
    running = world.run()
    running.echo(TEXT)
    world.engine.worker.end(running, Outcome(error=ValueError(TEXT)))
    job = world.job(running.job.id)
    assert (job.status, world.jobs.output(job.id).text) == (Status.FAILED, TEXT)
    # A column in latin1 keeps the bytes of the text, which SQLStore passes.
    assert job.status_text in (f"ValueError: {TEXT}", r"ValueError: ä€ \U0001f600")


def test_an_emoji_in_a_checkpoint_and_in_the_history_loses_neither(world: Bench) -> None:
    running = world.run()
    job_id, token = running.job.id, running.token
    store = world.engine.store
    assert store.report(job_id, token, Report(cursor={TEXT: TEXT}, output=TEXT))
    job = world.job(job_id)
    assert job.cursor == {TEXT: TEXT}
    assert store.change(job_id, Expect(token=token), concluded(job, Requeue(TEXT), job.read_time))
    requeued = world.job(job_id)
    assert (requeued.run, requeued.cursor) == (2, {TEXT: TEXT})
    assert [entry["reason"] for entry in history_of(requeued)] == [TEXT]


def test_an_emoji_in_a_report_a_finish_and_a_fail_from_outside(world: Bench) -> None:
    running = world.run()
    running.set_text(TEXT, 40)
    assert world.job(running.job.id).progress == 40
    running.finish = completed(TEXT, {TEXT: TEXT})
    world.engine.worker.end(running, Outcome(200, "OK"))
    job = world.job(running.job.id)
    assert (job.status, job.result) == (Status.COMPLETED, {TEXT: TEXT})
    other = world.start()
    assert world.engine.end(other, failed(TEXT))
    assert world.job(other).status is Status.FAILED
