"""Tasks of the tests' Django project, and pages that enqueue them and return their outcome."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from typing import Any, Final

import django
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from backjob.django import jobs
from backjob.django.models import Job
from backjob.django.task_api import Task, TaskContext, task_backends
from tests.scenarios.gates import at_gate_in_thread

__all__ = ["enqueue", "result"]


task: Final[Callable[..., Callable[[Any], Any]]] = import_module(
    "django.tasks" if django.VERSION >= (6,) else "django_tasks"
).task
"""The framework's decorator, from Django or the package."""


@task()
def noop(*args: Any, **kwargs: Any) -> None:
    """Accept any arguments and do nothing."""


@task
def noop_bare() -> None:
    """A task by the decorator without parentheses."""


@task()
async def noop_async(*args: Any, **kwargs: Any) -> None:
    """`noop` as a coroutine."""


@task()
def answer() -> int:
    return 42


@task()
async def answer_async() -> Any:
    await asyncio.sleep(0)
    await jobs.aupdate(30, "thinking")
    print("from a coroutine")
    return [42, jobs.is_background]


@task()
def echo(*args: Any, **kwargs: Any) -> Any:
    return (args, kwargs)


@task()
def fail_by_value(text: str = "This failed by its value") -> None:
    raise ValueError(text)


@task()
def fail_by_exit() -> None:
    raise SystemExit("This failed by an exit")


@task()
async def fail_by_exit_async() -> None:
    raise SystemExit("This failed by an exit")


@task()
def fail_by_interrupt() -> None:
    raise KeyboardInterrupt("This failed by an interrupt")


@task()
async def fail_by_interrupt_async() -> None:
    raise KeyboardInterrupt("This failed by an interrupt")


@task()
def fail_by_job() -> None:
    jobs.update(10, "half way")
    jobs.fail("no such customer")


@task()
def fail_and_go_on() -> str:
    try:
        jobs.fail("no such customer")
    except BaseException:
        return "swallowed"


@task()
async def fail_in_a_group() -> None:
    async def fail() -> None:
        jobs.fail("no such customer")

    async with asyncio.TaskGroup() as group:
        group.create_task(fail())


@task()
async def fail_cancelled() -> None:
    raise asyncio.CancelledError("the loop ends")


@task()
def fail_oddly() -> None:
    raise ValueError(ValueError("This failed"))


@task()
def return_oddly() -> Any:
    return {"function": lambda: True}


@task()
def return_nan() -> float:
    return float("nan")


@task()
def return_much(size: int) -> str:
    return "x" * size


@task()
def report(rows: int) -> int:
    done = 0
    for row in jobs.track(range(rows), "counting"):
        print("row", row)
        done += 1
    jobs.update(40)
    jobs.finish(f"{done} rows", result="not this")
    return done


@task()
def who() -> Any:
    return {"job": jobs.job_id, "pid": os.getpid(), "background": jobs.is_background}


@task(takes_context=True)
def with_context(context: TaskContext[..., Any], factor: int) -> Any:
    seen = context.task_result
    return [seen.id, context.attempt, str(seen.status), seen.args, factor]


@task()
def cancel_itself() -> None:
    assert jobs.job_id is not None
    jobs.cancel(jobs.job_id)
    jobs.update(50)


@task()
def finish_itself_from_outside() -> str:
    assert jobs.job_id is not None
    jobs.finish(result="by hand", job_id=jobs.job_id)
    return "not this"


calls: Final[list[int]] = []
"""The calls of `fail_times`, `retry_once` and `in_slices` so far; a test clears it."""


@task()
def fail_times(failures: int) -> int:
    """Fail at the first calls."""
    calls.append(len(calls) + 1)
    if len(calls) <= failures:
        raise ValueError(f"call {len(calls)}")
    return len(calls)


@task()
def retry_once() -> int:
    calls.append(len(calls) + 1)
    if len(calls) == 1:
        jobs.retry(0, "not yet")
    return len(calls)


@task()
def in_slices(slices: int) -> int:
    calls.append(len(calls) + 1)
    if len(calls) < slices:
        jobs.continue_later(len(calls))
    return len(calls)


@task()
def fall_silent() -> None:
    """Set the time of the job's last report far back, and read its status."""
    assert jobs.job_id is not None
    Job.objects.filter(id=jobs.job_id).update(updated_time=0)
    jobs.status(jobs.job_id)


@task()
def hold(port: int, steps: int) -> int:
    """Report and print, and wait at a gate of the test after each step."""
    with at_gate_in_thread(port) as gate:
        for step in jobs.track(range(steps), "holding"):
            print("step", step)
            jobs.update(10 * (step + 1), f"held {step}")
            assert gate.recv(1) == b"+"
    return steps


@task()
async def hold_async(port: int, steps: int) -> int:
    """`hold`, as a coroutine."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{os.getpid()}\n".encode())
    async for step in jobs.atrack(range(steps), "holding"):
        print("step", step)
        await jobs.aupdate(10 * (step + 1), f"held {step}")
        assert await reader.read(1) == b"+"
    writer.write(b"returned\n")
    writer.close()
    return steps


@task()
def enqueue_another() -> str:
    return str(noop.enqueue().id)


@task()
async def enqueue_another_async() -> str:
    return str((await noop.aenqueue()).id)


@task(queue_name="nightly")
def at_night() -> None:
    """A task of another queue."""


def plain() -> None:
    """Not a task."""


# Each is a task of the function that the name leads to, and not what the name leads to.
undecorated = task()(plain)
hidden = task()(answer.func)


@csrf_exempt
def enqueue(request: HttpRequest, name: str) -> HttpResponse:
    """Enqueue the task in the body; ``run_after`` is in seconds from now."""
    found: Task[..., Any] = globals()[name]
    given = json.loads(request.body or b"{}")
    if "run_after" in given:
        found = found.using(run_after=timezone.now() + timedelta(seconds=given["run_after"]))
    result = found.enqueue(*given.get("args", ()), **given.get("kwargs", {}))
    return JsonResponse({"id": result.id, "status": str(result.status), "url": jobs.status_url(result.id)})


def result(request: HttpRequest, result_id: str) -> HttpResponse:
    """Return the outcome of a task."""
    found = task_backends["default"].get_result(result_id)
    return JsonResponse(
        {
            "status": str(found.status),
            "value": found.return_value if str(found.status) == "SUCCESSFUL" else None,
            "errors": [[error.exception_class_path, error.traceback] for error in found.errors],
            "finished": found.is_finished,
            "due": found.task.run_after,
            "started": found.started_at,
        }
    )
