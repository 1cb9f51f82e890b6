"""Tasks of the tests' Django project, and pages that enqueue them and tell how they went."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from backjob.django import jobs
from backjob.django.task_api import Task, TaskContext, task_backends

__all__ = ["enqueue", "result"]


def task(**options: Any) -> Callable[[Any], Any]:
    """The decorator of either package."""

    def decorate(function: Any) -> Any:
        return task_backends["default"].task_class(func=function, **options)

    return decorate


@task()
def noop(*args: Any, **kwargs: Any) -> None:
    """Take anything, and do nothing."""


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
def fail_by_interrupt() -> None:
    raise KeyboardInterrupt


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
def fail_oddly() -> None:
    raise ValueError(ValueError("This failed"))


@task()
def return_oddly() -> Any:
    return {"set": {1}}


@task()
def return_nan() -> float:
    return float("nan")


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
def enqueue_another() -> str:
    return str(noop.enqueue().id)


@task(queue_name="nightly")
def at_night() -> None:
    """Of another queue."""


def plain() -> None:
    """No task."""


# Each is a task of the function that the name leads to, and not what the name leads to.
undecorated = task()(plain)
hidden = task()(answer.func)


@csrf_exempt
def enqueue(request: HttpRequest, name: str) -> HttpResponse:
    """Enqueue a task with the arguments in the body."""
    found: Task[..., Any] = globals()[name]
    given = json.loads(request.body or b"{}")
    result = found.enqueue(*given.get("args", ()), **given.get("kwargs", {}))
    return JsonResponse({"id": result.id, "status": str(result.status), "url": jobs.status_url(result.id)})


def result(request: HttpRequest, result_id: str) -> HttpResponse:
    """How a task went."""
    found = task_backends["default"].get_result(result_id)
    return JsonResponse(
        {
            "status": str(found.status),
            "value": found.return_value if str(found.status) == "SUCCESSFUL" else None,
            "errors": [[error.exception_class_path, error.traceback] for error in found.errors],
            "finished": found.is_finished,
        }
    )
