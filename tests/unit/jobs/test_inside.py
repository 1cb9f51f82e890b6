"""What an action passes to `finish`, `fail`, `update`, `echo` and `track`: taken as text or refused, and the end is written."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.utils.functional import lazystr

from backjob import Status
from backjob.errors import InvalidRequest
from backjob.jobs import BackJob
from backjob.worker.outcomes import Outcome
from tests.unit.core import Bench, bench


@pytest.fixture
def world() -> Bench:
    return bench()


async def _first(jobs: BackJob, text: Any) -> None:
    async for _ in jobs.atrack([1], text):
        return


CALLS: dict[str, tuple[str, Callable[[BackJob, Any], object]]] = {
    "finish": ("text", lambda jobs, value: jobs.finish(value)),
    "afinish": ("text", lambda jobs, value: asyncio.run(jobs.afinish(value))),
    "fail": ("text", lambda jobs, value: jobs.fail(value)),
    "update": ("status_text", lambda jobs, value: jobs.update(5, value)),
    "aupdate": ("status_text", lambda jobs, value: asyncio.run(jobs.aupdate(5, value))),
    "echo": ("text", lambda jobs, value: jobs.echo(value)),
    "track": ("text", lambda jobs, value: jobs.track([1], value)),
    "atrack": ("text", lambda jobs, value: asyncio.run(_first(jobs, value))),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("value", [{"rows": 5}, 3, [1], b"x", Decimal(1)], ids=repr)
def test_a_value_that_is_no_text_is_refused_at_once_and_the_job_ends_saying_so(
    world: Bench, call: str, value: object
) -> None:
    argument, act = CALLS[call]
    with pytest.raises(InvalidRequest) as outside:
        act(world.jobs, value)
    assert outside.value.argument == argument
    running = world.run()
    with running.active(), pytest.raises(InvalidRequest) as caught:
        act(world.jobs, value)
    world.engine.worker.end(running, Outcome(error=caught.value))
    state = world.jobs.status(running.job.id)
    assert state.status is Status.FAILED
    assert f"{argument}: must be text, not {type(value).__name__}" in state.status_text


def test_the_error_for_a_value_in_place_of_finishs_text_names_result(world: Bench) -> None:
    with pytest.raises(InvalidRequest, match=r"finish\(result=…\)"):
        world.jobs.finish({"rows": 5})  # type: ignore[arg-type]


@pytest.mark.parametrize("call", ["finish", "afinish", "update", "aupdate", "echo", "track"])
def test_a_lazy_translation_is_text(world: Bench, call: str) -> None:
    running = world.run()
    with running.active():
        _, act = CALLS[call]
        drain = act(world.jobs, lazystr("fertig"))
        if call == "track":
            list(drain)  # type: ignore[call-overload]
    world.engine.worker.end(running, Outcome(200, "OK"))
    state = world.jobs.status(running.job.id)
    assert (state.status, state.status_text) == (Status.COMPLETED, "fertig")


def test_a_job_can_be_ended_from_outside_with_a_lazy_text_and_an_error(world: Bench) -> None:
    done, failed = world.start(), world.start()
    text: Any = lazystr("fertig")
    error: Any = OSError("disk full")
    world.jobs.finish(text, job_id=done)
    world.jobs.fail(error, job_id=failed)
    assert world.jobs.status(done).status_text == "fertig"
    assert world.jobs.status(failed).status_text == "disk full"


def test_a_result_takes_dates_decimals_and_uuids_as_of_the_call(world: Bench) -> None:
    running = world.run()
    result: dict[str, Any] = {"on": date(2026, 11, 29), "sum": Decimal("1.50"), "ids": [UUID(int=1)]}
    with running.active():
        world.jobs.finish("done", result)
        result["ids"].append(UUID(int=2))
    world.engine.worker.end(running, Outcome(200, "OK"))
    assert world.jobs.status(running.job.id).result == {
        "on": "2026-11-29",
        "sum": "1.50",
        "ids": ["00000000-0000-0000-0000-000000000001"],
    }


def test_a_form_has_the_rules_of_a_query(world: Bench) -> None:
    job = world.job(world.start(method="POST", form={"on": date(2026, 11, 29), "all": True, "a b": ["x y", None]}))
    assert job.request is not None
    assert job.request.body == b"on=2026-11-29&all=true&a+b=x+y"


# --- background_only ------------------------------------------------------------------------------------------------


class View:
    def by_id(self, request: object, number: int = 5) -> str:
        return f"{number}"

    async def by_id_async(self, request: object, number: int = 5) -> str:
        return f"{number}"


class WithoutSignature:
    __signature__ = "of C"

    def __call__(self, request: object) -> str:
        return "ran"


@pytest.mark.parametrize("action", [View.by_id, View.by_id_async, View().by_id, lambda request: "ran"])
def test_a_guarded_action_has_the_signature_of_the_action_itself(world: Bench, action: Callable[..., object]) -> None:
    guarded = world.jobs.background_only(action)
    # Pyramid tells a view with a context from one without it in this way, which does not follow `__wrapped__`.
    assert inspect.getfullargspec(guarded).args == list(inspect.signature(action).parameters)
    assert inspect.signature(guarded) == inspect.signature(action)
    assert inspect.iscoroutinefunction(guarded) == inspect.iscoroutinefunction(action)


def test_a_guarded_method_loses_its_self_when_it_is_bound(world: Bench) -> None:
    class Guarded(View):
        by_id = world.jobs.background_only(View.by_id)

    assert list(inspect.signature(Guarded().by_id).parameters) == ["request", "number"]


def test_an_action_without_a_signature_can_be_guarded(world: Bench) -> None:
    action = WithoutSignature()
    with pytest.raises(TypeError):
        inspect.signature(action)
    guarded = world.jobs.background_only(action)
    with world.run().active():
        assert guarded(None) == "ran"
