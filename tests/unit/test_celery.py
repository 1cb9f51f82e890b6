"""`CeleryDispatch` without a broker's server: what a message contains, and what the task makes of a `BackJob`'s answers."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import pytest
from attrs import define, field
from celery import Celery
from celery.exceptions import Retry, SoftTimeLimitExceeded
from celery.signals import task_revoked

from backjob import DeliveryRefused, InvalidRequest, JobNotFound, Status, StoreUnavailable
from backjob.celery import CeleryDispatch
from backjob.settings import attach_early
from backjob.transports.inprocess import InProcessTransport
from tests.unit.core import FakeTransport

TASK: Final = "backjob.deliver"


@define(eq=False)
class Jobs:
    """A `BackJob` that answers each delivery in the same way."""

    outcome: Exception | None = None
    calls: list[Any] = field(factory=list)

    def deliver(self, job_id: str, transport: Any = None) -> Any:
        self.calls.append(("deliver", job_id, transport))
        if self.outcome is not None:
            raise self.outcome
        return SimpleNamespace(status=Status.COMPLETED)

    def cancel(self, job_id: str) -> bool:
        if isinstance(self.outcome, JobNotFound):
            raise self.outcome
        self.calls.append(("cancel", job_id))
        return True

    def fail(self, status_text: str, *, job_id: str) -> bool:
        self.calls.append(("fail", job_id, status_text))
        return True


def celery() -> Any:
    return Celery("shop", broker="memory://")


def test_a_message_contains_the_id_and_the_options_of_celery() -> None:
    app = celery()
    CeleryDispatch(app, queue="heavy", priority=3)("an-id")
    with app.connection_for_read() as connection:
        message = connection.default_channel.basic_get("heavy", no_ack=True)
    assert json.loads(message.body)[:2] == [["an-id"], {}]
    assert message.properties["priority"] == 3


def test_all_dispatches_of_a_celery_application_have_one_task_that_acknowledges_early() -> None:
    app = celery()
    app.conf.task_acks_late = True
    dispatches = [CeleryDispatch(app), CeleryDispatch(app, queue="heavy")]
    jobs = Jobs()
    for dispatch in dispatches:
        dispatch.attach(jobs)
    assert app.tasks[TASK]("an-id") == "COMPLETED"
    assert jobs.calls == [("deliver", "an-id", None)]
    assert not app.tasks[TASK].acks_late


def test_queues_with_different_transports_have_tasks_of_different_names() -> None:
    app, jobs, given = celery(), Jobs(), FakeTransport()
    CeleryDispatch(app).attach(jobs)
    with pytest.raises(InvalidRequest, match="give one of them another name"):
        CeleryDispatch(app, transport=given).attach(jobs)
    CeleryDispatch(app, transport=given, name="heavy").attach(jobs)
    for name in (TASK, "heavy"):
        app.tasks[name]("an-id")
    assert jobs.calls == [("deliver", "an-id", None), ("deliver", "an-id", given)]


def test_of_two_backjobs_each_delivers_its_own_jobs() -> None:
    app = celery()
    first, second = Jobs(), Jobs(JobNotFound("an-id"))
    for jobs in (first, second):
        CeleryDispatch(app).attach(jobs)
    assert app.tasks[TASK]("an-id") == "COMPLETED"
    task_revoked.send(app.tasks[TASK], request=SimpleNamespace(args=["an-id"]), expired=False)
    assert first.calls == [("deliver", "an-id", None), ("cancel", "an-id")]


def test_a_refusal_is_a_normal_result() -> None:
    app = celery()
    CeleryDispatch(app).attach(Jobs(DeliveryRefused("an-id", "ended", "it has ended COMPLETED already")))
    assert app.tasks[TASK]("an-id") == "ended"
    another = celery()
    CeleryDispatch(another).attach(Jobs(JobNotFound("an-id")))
    assert another.tasks[TASK]("an-id") == "unknown"


def test_a_soft_time_limit_fails_the_job_and_the_task() -> None:
    app, jobs = celery(), Jobs(SoftTimeLimitExceeded())
    CeleryDispatch(app).attach(jobs)
    with pytest.raises(SoftTimeLimitExceeded):
        app.tasks[TASK]("an-id")
    assert jobs.calls[1:] == [("fail", "an-id", "Celery's soft time limit is over")]


def test_celery_tries_again_while_the_store_is_unavailable() -> None:
    app, jobs = celery(), Jobs(StoreUnavailable("restarting"))
    CeleryDispatch(app).attach(jobs)
    with pytest.raises(Retry):
        app.tasks[TASK].apply(("an-id",), throw=True, retries=0)
    assert jobs.calls == [("deliver", "an-id", None)]


def test_a_message_that_has_expired_cancels_no_job() -> None:
    app, jobs = celery(), Jobs()
    CeleryDispatch(app).attach(jobs)
    task_revoked.send(app.tasks[TASK], request=SimpleNamespace(args=["an-id"]), expired=True)
    assert jobs.calls == []


def test_a_worker_without_a_backjob_says_what_it_lacks() -> None:
    app = celery()
    CeleryDispatch(app)
    with pytest.raises(InvalidRequest, match="import the module that makes it"):
        app.tasks[TASK]("an-id")


def test_the_transport_is_made_once_in_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shop_wsgi", SimpleNamespace(application=lambda environ, start_response: []))
    given = FakeTransport()
    for transport in ("shop_wsgi:application", lambda: given, given):
        app, jobs = celery(), Jobs()
        CeleryDispatch(app, transport=transport).attach(jobs)
        for _ in range(2):
            app.tasks[TASK]("an-id")
        [first, second] = [call[2] for call in jobs.calls]
        assert first is second
        assert isinstance(first, InProcessTransport) if isinstance(transport, str) else first is given


def test_a_dispatch_knows_its_jobs_before_the_engine_is_made() -> None:
    dispatch, jobs = CeleryDispatch(celery()), Jobs()
    for invalid in (None, "{", 5, {"heavy": {"dispatch": "nosuchmodule:dispatch"}}, {"heavy": 5}):
        attach_early(invalid, jobs)
    attach_early({"light": {"max_running": 2}, "heavy": {"dispatch": dispatch}}, jobs)
    assert list(dispatch._task.attached) == [jobs]


def test_a_dispatch_of_a_module_that_imports_the_application_is_found_before_the_first_delivery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app, jobs, module = celery(), Jobs(), ModuleType("beginning")
    monkeypatch.setitem(sys.modules, "beginning", module)
    attach_early({"heavy": {"dispatch": "beginning:send"}}, jobs)
    monkeypatch.setattr(module, "send", CeleryDispatch(app), raising=False)
    assert app.tasks[TASK]("an-id") == "COMPLETED"
