"""Checked by mypy and pyright, never run: the types of the Flask extension."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import assert_type

from flask import Flask
from flask.typing import ResponseReturnValue

import backjob
from backjob import JobState, Output
from backjob.flask import BackJob
from backjob.protocols import Store

jobs = BackJob()


def create_app(store: Store) -> Flask:
    app = Flask(__name__)
    jobs.init_app(app)
    BackJob(app, owner=lambda request: request.cookies.get("user"), store=store, on_end=print)
    app.add_url_rule("/work/<int:number>", view_func=work)
    return app


@jobs.background_only
def work(number: int) -> ResponseReturnValue:
    jobs.update(20, "Chugging along")
    for row in jobs.track(range(number), "Reading"):
        assert_type(row, int)
    if number > 5:
        jobs.fail("too many")
    return jobs.finish("And done", result={"href": "/export.csv"})


def a_decorated_view_keeps_its_type() -> None:
    assert_type(work(5), ResponseReturnValue)


def start() -> ResponseReturnValue:
    job_id = jobs.start("work", {"number": 5}, delay=timedelta(minutes=1), merge="pending", owner=None)
    assert_type(job_id, str)
    return {"url": jobs.status_url(job_id)}, 202


async def start_from_a_coroutine() -> str:
    return await jobs.astart("work", {"number": 5}, method="POST", json=[1])


def read(job_id: str) -> Iterator[str]:
    assert_type(jobs.status(job_id), JobState)
    assert_type(jobs.output(job_id), Output)
    assert_type(jobs.find(scope="reports"), list[JobState])
    assert_type(jobs.is_background, bool)
    for state in jobs.watch(job_id):
        yield state.status_text


def it_is_a_backjob() -> backjob.BackJob:
    return jobs


def misuse_is_a_type_error() -> None:
    jobs.strat("work")  # type: ignore[attr-defined]
    jobs.start("work", dealy=5)  # type: ignore[call-arg]
    BackJob(stor=None)  # type: ignore[call-arg]
    backjob.Backjob  # type: ignore[attr-defined] # noqa: B018 - names that are imported at their first use are checked too
