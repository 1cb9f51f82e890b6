"""The job, its route, run and attempt on the records of an action."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import structlog
from typing_extensions import override

from backjob.logging import JobFilter, add_job, job_fields
from backjob.worker.outcomes import Outcome
from backjob.worker.running import Running
from tests.unit.core import Bench, bench

log = logging.getLogger("shop.tagged")


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.addFilter(JobFilter())
        self.setFormatter(logging.Formatter("%(job_id)s %(route)s %(run)s %(attempt)s %(message)s"))

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def lines() -> Iterator[list[str]]:
    handler = Lines()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler.lines
    log.removeHandler(handler)


@pytest.mark.parametrize("capture", [None, "INFO"], ids=["not captured", "captured as output"])
def test_each_record_of_an_action_names_its_job(lines: list[str], capture: str | None) -> None:
    world = bench(capture_logging=capture)
    running = second_run(world)
    log.info("before")
    with running.active(), ThreadPoolExecutor(1) as pool:
        log.info("here")
        pool.submit(world.jobs.bind(log.info), "bound").result()
        pool.submit(log.info, "unbound").result()
        asyncio.run(in_task())
    log.info("after")
    tag = f"{running.job.id} GET /work 2 2"
    assert lines == [
        "- - - - before",
        f"{tag} here",
        f"{tag} bound",
        "- - - - unbound",
        f"{tag} in a task",
        "- - - - after",
    ]


def second_run(world: Bench) -> Running:
    running = world.run(path="/work?key=secret", retries=1, retry_delay=0)
    world.engine.worker.end(running, Outcome(503))
    world.step()
    return world.receive()


async def in_task() -> None:
    await asyncio.create_task(coroutine())


async def coroutine() -> None:
    log.info("in a task")


def test_what_a_record_has_already_stays(lines: list[str]) -> None:
    running = bench().run()
    with running.active():
        log.info("of another", extra={"job_id": "other", "run": 7})
    assert lines == ["other GET /work 7 1 of another"]


def test_structlog_adds_the_job_to_each_event() -> None:
    running = bench().run()
    with structlog.testing.capture_logs(processors=[add_job]) as events:
        logger = structlog.get_logger()
        with running.active():
            logger.info("exported", rows=50)
        logger.info("idle")
    assert events == [
        {"event": "exported", "rows": 50, "log_level": "info", **job_fields_of(running.job.id)},
        {"event": "idle", "log_level": "info"},
    ]
    assert json.dumps(events)


def job_fields_of(job_id: str) -> dict[str, object]:
    assert job_fields() == {}
    return {"job_id": job_id, "route": "GET /work", "run": 1, "attempt": 1}
