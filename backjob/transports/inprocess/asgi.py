"""Calls an ASGI 3 application with a request, and with the lifespan of this process, as a server does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http.client import responses
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

from backjob.errors import NotSent
from backjob.http.addresses import BaseURL
from backjob.http.serving import IN_PROCESS
from backjob.http.wire import fields_to_send
from backjob.model import Request, Response
from backjob.transports.inprocess.responses import Collected, failed

Message: TypeAlias = MutableMapping[str, Any]
# `Any`: to a type checker, each framework's own types for these are incompatible with every other's.
App: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

_log = logging.getLogger("backjob")

_VERSION: Final = {"version": "3.0", "spec_version": "2.4"}


async def call_asgi(app: App, request: Request, base: BaseURL, state: Mapping[str, Any] | None) -> Response:
    """Call the application, and return its complete response: a 500, which is logged, if it raises.

    ``state`` is that of the lifespan, or None. An error that is no `Exception` is raised.
    """
    collected = Collected(request)
    complete = asyncio.Event()
    messages: list[Message] = [{"type": "http.request", "body": request.body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await complete.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            fields = [(_text(name), _text(value)) for name, value in message.get("headers", ())]
            status = int(message["status"])
            collected.begin(status, responses.get(status, ""), fields)
        elif message["type"] == "http.response.body":
            collected.write(bytes(message.get("body", b"")))
            if not message.get("more_body"):
                complete.set()

    try:
        await app(scope_of(request, base, state), receive, send)
        return collected.response()
    except Exception:
        return failed(request)


def scope_of(request: Request, base: BaseURL, state: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the scope of a request whose path arrives as it is: the application, or else the middleware, moves its mount."""
    root = "" if request.mount else unquote(base.prefix)
    scope = {
        "type": "http",
        "asgi": dict(_VERSION),
        "http_version": "1.1",
        "method": request.method,
        "scheme": base.scheme,
        "path": root + unquote(request.path),
        "raw_path": (base.prefix if root else "").encode() + request.path.encode(),
        "query_string": request.query.encode("latin-1"),
        "root_path": root,
        "headers": [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in fields_to_send(request, base.authority)
        ],
        "client": ("127.0.0.1", 0),
        "server": (base.address.host, base.address.port),
        "extensions": {},
        IN_PROCESS: unquote(request.mount),
    }
    if state is not None:
        scope["state"] = dict(state)
    return scope


def _text(value: Any) -> str:
    return bytes(value).decode("latin-1")


class Lifespan:
    """One lifespan of an application, in the event loop in which it is created. ``state`` is what it gives to requests."""

    def __init__(self, app: App) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._has_started = False

    async def start(self) -> None:
        """Return once the application has started, or has turned out to have no lifespan. Raises `NotSent` if it fails."""
        self._task = asyncio.create_task(self._run())
        answer = await self._exchange("lifespan.startup")
        self._has_started = answer is not None and answer["type"] == "lifespan.startup.complete"
        if answer is not None and not self._has_started:
            raise NotSent(
                f"the application's startup failed: {str(answer.get('message', '')).strip() or 'see its log'}"
            )

    async def stop(self) -> None:
        """Have the application shut down, if it has a lifespan, and wait until it has."""
        if self._task is not None and not self._task.done():
            answer = await self._exchange("lifespan.shutdown")
            if answer is not None and answer["type"] == "lifespan.shutdown.failed":
                _log.error("the application's shutdown failed: %s", answer.get("message", ""))
            await asyncio.wait([self._task])

    async def _exchange(self, kind: str) -> Message | None:
        """Send an event and return the answer, or None if the application has returned or raised instead."""
        if self._task is None:
            return None
        await self._to_app.put({"type": kind})
        answer = asyncio.create_task(self._answers.get())
        await asyncio.wait([answer, self._task], return_when=asyncio.FIRST_COMPLETED)
        if not answer.done() and self._answers.empty():
            answer.cancel()
            return None
        return await answer

    async def _answer(self, message: Message) -> None:
        if message["type"].endswith(".failed"):
            self._has_started = False  # it has said why, and many applications raise the error as well
        await self._answers.put(message)

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": dict(_VERSION), "state": self.state}
        try:
            await self._app(scope, self._to_app.get, self._answer)
        except Exception as error:
            if self._has_started:
                _log.exception("the lifespan of the application ended with an error")
            else:
                _log.debug("the application has no lifespan: %r", error)
        except (SystemExit, KeyboardInterrupt) as error:
            # Either would end the event loop.
            await self._answers.put({"type": "lifespan.startup.failed", "message": repr(error)})
