"""ASGI 3: the middleware, which must be the application's outermost, and the status routes.

An action is shielded from its client: a lost connection neither cancels it nor sends it a ``http.disconnect``. Calls that
may block, those to the store above all, run in other threads.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeAlias

from backjob.adapters import ActionCall, Receiver, exit_response, served, visit
from backjob.http.scope import (
    Scope,
    ScopeServing,
    comes_from_server,
    listener_of,
    request_of,
    restored,
    route_path,
    routed_requests,
    with_mount,
)
from backjob.http.worker_requests import hide_signature
from backjob.jobs import BackJob, Engine, engine_of
from backjob.model import Headers
from backjob.process import in_event_loop
from backjob.status.endpoints import Endpoints, StatusResponse
from backjob.status.exchange import Download
from backjob.status.streaming.stream import Stream
from backjob.worker.offload import to_thread
from backjob.worker.replies import CONCURRENCY_HEADER, Reply, WorkerRequest, show_outside
from backjob.worker.responses import ActionResponse

__all__ = ["BackJobMiddleware", "HideSignature", "StatusApp"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
# `Any`: to a type checker, each framework's own types for these are incompatible with every other's.
App: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

_LONGEST_SEND: Final = 30.0  # s
_LARGE_CHUNK: Final = 1 << 16  # bytes: to write more to a file could block the event loop


class BackJobMiddleware:
    """Recognises worker requests and runs their actions; it passes all other requests on unchanged.

    With ``status`` it also serves the status routes under the `BackJob`'s ``status_prefix``. It passes lifespan events
    and websockets on; when the server shuts down, it gives up the leases of jobs that wait.
    """

    def __init__(self, app: App, jobs: BackJob | Engine, status: bool = True) -> None:
        self._app = app
        self._jobs = engine_of(jobs)
        self._receiver = Receiver(jobs)
        self._status = StatusApp(jobs) if status else None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, self._until_shutdown(receive) if scope["type"] == "lifespan" else receive, send)
            return
        scope = with_mount(scope)
        listener = partial(listener_of, scope)
        if comes_from_server(scope):
            self._jobs.request_arrived(listener, math.inf)
        try:
            opened = self._jobs.worker_request(lambda: routed_requests(scope), listener)
            show_outside(opened, scope)
            if opened is not None:
                await self._work(scope, receive, send, opened)
                return
        except Reply as reply:
            show_outside(reply, scope)
            if reply.hold:
                await asyncio.sleep(reply.hold)
            headers = (*reply.headers, (CONCURRENCY_HEADER, "many"))
            await _answer(send, reply.status, headers, str(reply).encode())
            return
        if self._status is not None and (below := self._status.below(scope)) is not None:
            with served(ScopeServing(scope)):  # for a job that runs again as the current user
                await self._status(below, receive, send)
            return
        await self._pass_on(scope, receive, send)

    def _until_shutdown(self, receive: Receive) -> Receive:
        """Return ``receive`` of a lifespan. When the server shuts down, other processes may deliver this one's jobs."""

        async def receive_and_leave() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                leave = self._jobs.leave
                if in_event_loop():
                    await to_thread(leave)
                else:
                    leave()  # trio's, which passes through here with requests that start no job
            return message

        return receive_and_leave

    # --- a worker request -------------------------------------------------------------------------------------------

    async def _work(self, scope: Scope, receive: Receive, send: Send, opened: WorkerRequest) -> None:
        body = await _body(receive, opened.length)
        if body is None:
            return  # the client disconnected before it had sent all of it: nothing was claimed
        answer = await self._receiver.arun(opened, body, partial(self._act, scope))
        with suppress(OSError):  # the client may have disconnected
            await _answer(send, answer.status, answer.headers, b"")

    async def _act(self, arrived: Scope, call: ActionCall) -> None:
        scope = restored(arrived, call.opened.request, call.caller, call.running.fields)
        with served(ScopeServing(scope)):
            if call.job.as_owner:
                await to_thread(self._jobs.run_as_owner, call.job, scope)
            collected = _Collected(call.response)
            await self._app(scope, _Replayed(call.body, collected.complete), collected)

    # --- an ordinary request ----------------------------------------------------------------------------------------

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def start(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            with served(ScopeServing(scope)):
                await self._app(scope, receive, start)
        except BaseException as error:
            response = exit_response(error)
            if response is None:
                raise
            if not has_started:
                await _answer(send, response.status, response.headers, response.body)


class HideSignature:
    """Hides the signatures of worker requests from everything inside of it but `BackJobMiddleware`.

    Wrap the whole application in it if something around the middleware reads queries, such as tracing or an access log.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            hide_signature(scope)
        await self._app(scope, receive, send)


class _Replayed:
    """``receive`` of an action: its whole body at once, then a disconnect, but only once its response is complete.

    Frameworks wait for that disconnect: it ends their own task that watches the connection.
    """

    def __init__(self, body: bytes, complete: asyncio.Event) -> None:
        self._body: bytes | None = body
        self._complete = complete

    async def __call__(self) -> Message:
        body, self._body = self._body, None
        if body is None:
            await self._complete.wait()
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body, "more_body": False}


class _Collected:
    """``send`` of an action."""

    def __init__(self, response: ActionResponse) -> None:
        self._response = response
        self._has_chunks = False
        self.complete = asyncio.Event()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message.get("headers", ())
            fields = [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in headers]
            self._response.begin(int(message["status"]), "", fields)
        elif message["type"] == "http.response.body" and not self.complete.is_set():
            chunk, is_last = message.get("body", b""), not message.get("more_body")
            is_whole = is_last and not self._has_chunks
            self._has_chunks = True
            if self._response.may_block or len(chunk) > _LARGE_CHUNK:
                await to_thread(partial(self._response.write, chunk, is_whole=is_whole))
            else:
                self._response.write(chunk, is_whole=is_whole)
            if is_last:
                self._response.end()
                self.complete.set()


class StatusApp:
    """The status routes as an ASGI application, for you to mount at the `BackJob`'s ``status_prefix``.

    It serves up to 1000 event streams at once, or as many as the `BackJob`'s ``streams`` says.
    """

    def __init__(self, jobs: BackJob | Engine) -> None:
        self._jobs = engine_of(jobs)
        self._endpoints = Endpoints(self._jobs, self._jobs.status_prefix)

    def below(self, scope: Scope) -> Scope | None:
        """Return the scope of a request below the prefix, or None for any other request."""
        rest = self._endpoints.below(route_path(scope))
        if rest is None:
            return None
        mount = scope.get("root_path", "") + self._jobs.status_prefix
        return {**scope, "root_path": mount, "path": mount + rest}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        answer = await to_thread(self._answer, scope)
        if answer.stream is not None:
            await _stream(receive, send, answer, answer.stream)
        elif answer.download is not None:
            await _download(receive, send, answer, answer.download)
        else:
            await _answer(send, answer.status, answer.headers, answer.body)

    def _answer(self, scope: Scope) -> StatusResponse:
        request, here = request_of(scope), ScopeServing(scope)
        return self._endpoints.respond(visit(self._jobs, request, here, route_path(scope), here.mount))


async def _body(receive: Receive, length: int) -> bytes | None:
    """Return the body, at most ``length`` bytes of it, or None if the client disconnected before it had sent all of it."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if not message.get("more_body") or len(body) >= length:
            return bytes(body[:length])


async def _stream(receive: Receive, send: Send, answer: StatusResponse, stream: Stream) -> None:
    """Send a stream to its end, or until the client disconnects or does not read for 30 s."""

    async def send_in_time(message: Message) -> None:
        # `send` blocks for as long as a slow client does not read, possibly past the stream's lifetime.
        async with asyncio.timeout(_LONGEST_SEND):
            await send(message)

    watching = asyncio.ensure_future(_until_disconnect(receive, stream))
    try:
        await send_in_time({"type": "http.response.start", "status": answer.status, "headers": _fields(answer.headers)})
        async for chunk in stream:
            await send_in_time({"type": "http.response.body", "body": chunk, "more_body": True})
        await send_in_time({"type": "http.response.body", "body": b"", "more_body": False})
    except OSError:
        return  # the timeout, or a server that raises it because the client has disconnected
    finally:
        stream.close()
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def _download(receive: Receive, send: Send, answer: StatusResponse, download: Download) -> None:
    """Send a file to its end, or until the client disconnects or does not read for 30 s."""
    # Some servers' `send` does nothing once the client has disconnected: the whole file would be read for nobody.
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await send({"type": "http.response.start", "status": answer.status, "headers": _fields(answer.headers)})
        while chunk := await to_thread(download.read):
            if gone.done():
                return
            async with asyncio.timeout(_LONGEST_SEND):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    except OSError:
        return  # the timeout, or a server that raises it because the client has disconnected
    finally:
        gone.cancel()
        await to_thread(download.close)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _until_disconnect(receive: Receive, stream: Stream) -> None:
    try:
        await _disconnected(receive)
    finally:
        stream.end()
        stream.wake()


def _fields(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


async def _answer(send: Send, status: int, headers: Headers, body: bytes) -> None:
    fields = _fields(headers)
    if not any(name == b"content-length" for name, _ in fields):
        fields.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body, "more_body": False})
