"""A store that is away is told of in the log, and not by each job at each turn."""

from __future__ import annotations

import logging

import pytest

from backjob.model import Status
from backjob.worker.claiming import Outcome
from tests.unit.core import NOT_SENT, bench

ALL = {"create", "get", "output", "change", "report", "take_due", "beat", "find", "purge"}


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_outage_is_told_once_a_minute_however_many_jobs_wait(caplog: pytest.LogCaptureFixture) -> None:
    world = bench(error_timeout=600)
    running = [world.run() for _ in range(20)]
    ending = [world.run() for _ in range(20)]
    for _ in range(20):
        world.start()
    world.step()
    caplog.clear()
    caplog.set_level(logging.DEBUG, "backjob")
    world.store.down = ALL
    for job in ending:
        world.jobs.worker.end(job, Outcome(200, "OK"))
    for sent in world.transport.sent:
        if not sent.future.done():
            sent.fail(NOT_SENT)
    for second in range(150):
        for job in running:
            job.write(f"{second}\n")
        world.step(1)
    assert len(warnings_in(caplog)) == 3
    assert "locked" in warnings_in(caplog)[0]
    assert sum(record.levelno == logging.INFO for record in caplog.records) == len(running + ending)
    assert any(record.levelno == logging.DEBUG for record in caplog.records)
    caplog.clear()
    world.store.down = set()
    for _ in range(30):
        world.step(1)
    assert warnings_in(caplog) == []
    assert {world.job(job.job.id).status for job in ending} == {Status.COMPLETED}
    assert {world.job(job.job.id).output_size for job in running} == {len("".join(f"{n}\n" for n in range(150)))}
    caplog.clear()
    world.store.down = ALL
    world.step(60)
    assert len(warnings_in(caplog)) == 1


def test_each_end_that_is_given_up_is_told(caplog: pytest.LogCaptureFixture) -> None:
    world = bench(error_timeout=10)
    running = [world.run() for _ in range(3)]
    world.store.down = {"change"}
    for job in running:
        world.jobs.worker.end(job, Outcome(200, "OK"))
    for _ in range(15):
        world.step(1)
    given_up = [text for text in warnings_in(caplog) if "given up" in text]
    assert len(given_up) == 3
    assert all(any(job.job.id in text for text in given_up) for job in running)
