"""The scenario site: actions that do not depend on a framework. Each app in `apps` turns its framework's request into a
`Visit`, and the `Reply` into its framework's response.

Every run of an action adds a line to the file ``SCENARIO_RUNS``, so that a test can count the runs.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from asyncio import CancelledError
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from attrs import field, frozen

from backjob import BackJob, BackJobError
from tests.scenarios.gates import at_gate_in_thread

__all__ = ["METHODS", "Reply", "Visit", "answer", "exit_of", "owner_in"]

METHODS: Final = ("GET", "POST", "PUT", "DELETE", "CHICKEN")
"""The methods that the routes allow, for frameworks that need a list."""


@frozen(kw_only=True)
class Visit:
    """A request as the application sees it.

    ``raw`` is the undecoded target if the server passes it on; ``headers`` have lower-case names; ``mount`` is
    SCRIPT_NAME or root_path.
    """

    method: str
    path: str
    query: str
    raw: str | None
    mount: str
    headers: Mapping[str, str]
    body: bytes
    address: str
    scheme: str
    host: str
    parameters: Mapping[str, str]


@frozen
class Reply:
    """The response of an action: a text, or chunks to stream without a length."""

    body: str | Iterable[str] = ""
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(factory=dict)


Action: TypeAlias = Callable[[BackJob, Visit], Reply]


def answer(jobs: BackJob, visit: Visit) -> Reply:
    """The site's response. An action's exceptions propagate to the framework."""
    if visit.path == "/ready":
        return Reply("ready")
    if visit.path == "/start":
        return _start(jobs, visit)
    if visit.path.startswith("/work/"):
        name = visit.path.removeprefix("/work/").partition("/")[0]
        action = _ACTIONS.get(name)
        if action is not None:
            with open(os.environ["SCENARIO_RUNS"], "a", encoding="utf-8") as runs:  # noqa: PTH123 - appends are atomic
                runs.write(f"{jobs.job_id} {name}\n")
            return action(jobs, visit)
    return Reply("no such page", 404)


def owner_in(cookie: str | None) -> str | None:
    """The site's owner hook: the value of the cookie ``user``."""
    fields = (part.strip().partition("=") for part in (cookie or "").split(";"))
    return next((value for name, _, value in fields if name == "user"), None)


def _start(jobs: BackJob, visit: Visit) -> Reply:
    """Start a job with the arguments of ``start()`` that the body has as JSON. ``is_stripped``: a proxy strips the mount."""
    arguments: dict[str, Any] = json.loads(visit.body)
    path = ("" if arguments.pop("is_stripped", False) else visit.mount) + arguments.pop("path")
    try:
        job_id = jobs.start(path, arguments.pop("query", None), **arguments)
    except BackJobError as error:
        return _json({"error": type(error).__name__, "text": str(error)}, 400)
    return _json({"id": job_id, "url": jobs.status_url(job_id, cancel=True), "pid": os.getpid()}, 202)


def _page(text: str) -> Reply:
    """A page for people, of which a job keeps nothing."""
    return Reply(f"<p>{text}</p>", content_type="text/html; charset=utf-8")


def _json(value: object, status: int = 200) -> Reply:
    return Reply(json.dumps(value), status, "application/json")


# --- actions --------------------------------------------------------------------------------------------------------


def _see(jobs: BackJob, visit: Visit) -> Reply:
    """Return everything that the action sees, as the job's result and as the response."""
    seen = {
        "background": jobs.is_background,
        "job_id": jobs.job_id,
        "method": visit.method,
        "path": visit.path,
        "query": visit.query,
        "raw": visit.raw,
        "mount": visit.mount,
        "headers": dict(visit.headers),
        "size": len(visit.body),
        "digest": hashlib.sha256(visit.body).hexdigest(),
        "body": visit.body[:1000].decode("utf-8", "replace"),
        "address": visit.address,
        "scheme": visit.scheme,
        "host": visit.host,
        "time": datetime.now(UTC).isoformat(),
    }
    jobs.finish("seen", result=seen)
    return _json(seen)


def _none(jobs: BackJob, visit: Visit) -> Reply:
    return _page("a page that reports nothing")


def _print(jobs: BackJob, visit: Visit) -> Reply:
    for number in range(int(visit.parameters["lines"])):
        print(f"line {number} – ä")
    return _page("printed")


def _stream(jobs: BackJob, visit: Visit) -> Reply:
    def chunks() -> Iterator[str]:
        yield "first "
        jobs.update(40)
        yield "second ä "
        print("printed ", end="")
        if "error" in visit.parameters:
            raise ValueError(visit.parameters["error"])
        if "fail" in visit.parameters:
            jobs.fail(visit.parameters["fail"])
        yield "third"

    return Reply(chunks(), content_type=visit.parameters.get("type", "text/plain; charset=utf-8"))


def _steps(jobs: BackJob, visit: Visit) -> Reply:
    """Call the methods that the query lists as JSON: ``[[method, arguments, keywords], …]``."""
    for method, arguments, keywords in json.loads(visit.parameters["steps"]):
        if method == "track":
            for _ in jobs.track(range(arguments[0]), *arguments[1:], **keywords):
                pass
        elif method in ("update", "increment", "echo", "finish", "fail"):
            getattr(jobs, method)(*arguments, **keywords)
        else:
            raise ValueError(method)
    return Reply("done")


def _raise(jobs: BackJob, visit: Visit) -> Reply:
    jobs.update(30)
    raise ValueError(visit.parameters["text"])


def _flaky(jobs: BackJob, visit: Visit) -> Reply:
    if jobs.attempt == 1:
        raise ValueError("the first attempt")
    return Reply("the second attempt")


def _fail(jobs: BackJob, visit: Visit) -> Reply:
    try:
        jobs.update(70, "half way")
        jobs.fail(visit.parameters.get("text", ""))
    except Exception:
        return Reply("fail() was swallowed")


def exit_of(how: str) -> BaseException:
    """The error with which the action "leave" ends; ``how`` is its name, perhaps with an argument: ``SystemExit:3``."""
    name, _, argument = how.partition(":")
    kinds: Mapping[str, type[BaseException]] = {
        kind.__name__: kind for kind in (SystemExit, KeyboardInterrupt, GeneratorExit, CancelledError)
    }
    return kinds[name](*([int(argument)] if argument else []))


def _square(number: int) -> int:
    print("in a child", flush=True)
    return number * number


def _fork(jobs: BackJob, visit: Visit) -> Reply:
    """Print, and use a pool of forked processes, whose prints belong to no job."""
    print("before")
    with multiprocessing.get_context("fork").Pool(2) as pool:
        squares = pool.map_async(_square, range(3)).get(30)
        pool.close()  # not terminate(): the children have the server's handler of SIGTERM, and would live on
        pool.join()
    print("after")
    return Reply(jobs.finish("forked", result={"squares": squares}))


def _leave(jobs: BackJob, visit: Visit) -> Reply:
    jobs.update(30)
    raise exit_of(visit.parameters["how"])


def _finish(jobs: BackJob, visit: Visit) -> Reply:
    return Reply(jobs.finish("And done", result={"href": "/export.csv", "rows": [1, None, "ä"]}))


def _chain(jobs: BackJob, visit: Visit) -> Reply:
    """Start the next job of a chain until ``left`` is 0. The result has the id of the next job."""
    left = int(visit.parameters["left"])
    following = jobs.start(f"{visit.mount}/work/chain", {"left": left - 1}) if left else None
    return Reply(jobs.finish(visit.headers.get("cookie"), result={"next": following, "address": visit.address}))


def _split(jobs: BackJob, visit: Visit) -> Reply:
    """Start two of itself."""
    for _ in range(2):
        jobs.start(f"{visit.mount}/work/split", as_current_user=False)
    return Reply(jobs.finish())


def _guarded(jobs: BackJob, visit: Visit) -> Reply:
    return jobs.background_only(lambda: Reply("guarded"))()


def _threads(jobs: BackJob, visit: Visit) -> Reply:
    """Report from threads that the action starts."""

    def work(number: int) -> None:
        print(f"{number} ", end="")
        jobs.increment(10)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(jobs.bind(work), range(5)))
    return _page("threads")


def _answer(jobs: BackJob, visit: Visit) -> Reply:
    location = visit.parameters.get("location")
    return Reply("an answer", int(visit.parameters["status"]), headers={"Location": location} if location else {})


def _members(jobs: BackJob, visit: Visit) -> Reply:
    """A page for signed-in users; it redirects others to the login page."""
    if owner_in(visit.headers.get("cookie")) is None:
        return Reply("", 302, headers={"Location": "/login"})
    return Reply("welcome")


def _result(jobs: BackJob, visit: Visit) -> Reply:
    """Respond with what is to become the job's result, output or file."""
    kind = visit.parameters["kind"]
    if kind == "json":
        return _json({"rows": 50, "name": "ä"})
    if kind == "text":
        print("printed")
        return Reply("Exported 50 rows")
    if kind == "html":
        return Reply("Exported 50 rows", content_type="text/html; charset=utf-8")
    if kind == "finish":
        return Reply(jobs.finish("Exported", file="ä,b\r\n".encode(), name="Übersicht.csv"))
    rows = (f"{number},{'ä' * 50}\r\n" for number in range(int(visit.parameters["rows"])))
    disposition = "attachment; filename=\"rows.csv\"; filename*=UTF-8''%C3%9Cbersicht.csv"
    return Reply(rows, content_type="text/csv; charset=utf-8", headers={"Content-Disposition": disposition})


def _hold(jobs: BackJob, visit: Visit) -> Reply:
    """Connect to the test's `tests.scenarios.client.Gate`, and report progress whenever it says so."""
    with at_gate_in_thread(int(visit.parameters["gate"])) as gate:
        while gate.recv(1) == b"+":
            if "quietly" in visit.parameters:
                jobs.update(1)
                jobs.update(int(visit.parameters["quietly"]))
            else:
                jobs.update(50, "released")
    return _page("held")


_ACTIONS: Final[Mapping[str, Action]] = {
    "answer": _answer,
    "chain": _chain,
    "fail": _fail,
    "finish": _finish,
    "flaky": _flaky,
    "fork": _fork,
    "guarded": _guarded,
    "hold": _hold,
    "leave": _leave,
    "members": _members,
    "none": _none,
    "print": _print,
    "raise": _raise,
    "result": _result,
    "see": _see,
    "split": _split,
    "steps": _steps,
    "stream": _stream,
    "threads": _threads,
}
