"""ASGI 3: the middleware, which must be the application's outermost, and the status routes.

An action is shielded from its client: a lost connection neither cancels it nor sends it a ``http.disconnect``. Calls that
may block, those to the store above all, run in other threads.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

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
from backjob.http.serving import serving
from backjob.http.worker_requests import hide_signature
from backjob.jobs import BackJob, Engine, engine_of
from backjob.model import Headers
from backjob.process import in_event_loop
from backjob.status.endpoints import Endpoints, StatusResponse, Visit
from backjob.status.exchange import Download
from backjob.status.streaming.stream import Stream
from backjob.worker.offload import note_loop, to_thread
from backjob.worker.outcomes import Outcome, error_to_raise, exit_of, status_of
from backjob.worker.replies import CONCURRENCY_HEADER, Reply, WorkerRequest, no_store, show_outside
from backjob.worker.responses import ActionResponse
from backjob.worker.running import Running
from backjob.worker.task_exits import contain_tasks

__all__ = ["BackJobMiddleware", "HideSignature", "StatusApp", "raise_if_cancelled", "shielded"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
# `Any`: to a type checker, each framework's own types for these are incompatible with every other's.
App: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

_T = TypeVar("_T")

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
            token = serving.set(ScopeServing(scope))  # for a job that runs again as the current user
            try:
                await self._status(below, receive, send)
            finally:
                serving.reset(token)
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
        running = await shielded(to_thread(self._jobs.worker.claim, opened, body))
        outcome = await shielded(self._act_and_end(scope, opened, body, running))
        if (error := error_to_raise(running, outcome)) is not None:
            raise error
        with suppress(OSError):  # the client may have disconnected
            await _answer(send, status_of(outcome), running.headers, b"")

    async def _act_and_end(self, arrived: Scope, opened: WorkerRequest, body: bytes, running: Running) -> Outcome:
        response = _Collected(running)
        error: BaseException | None = None
        try:
            contain_tasks()
            note_loop()
            scope = restored(arrived, opened.request, running.job.caller, running.fields)
            token = serving.set(ScopeServing(scope))
            try:
                with running.active():
                    if running.job.as_owner:
                        await to_thread(self._jobs.run_as_owner, running.job, scope)
                    await self._app(scope, _Replayed(body, response.complete), response)
            finally:
                serving.reset(token)
        except BaseException as raised:
            error = raised
        outcome = response.outcome(error, self._jobs.clock.now())
        await to_thread(self._jobs.worker.end, running, outcome)
        raise_if_cancelled(error)
        return outcome

    # --- an ordinary request ----------------------------------------------------------------------------------------

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def start(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        token = serving.set(ScopeServing(scope))
        note_loop()
        try:
            await self._app(scope, receive, start)
        except BaseException as error:
            job_exit = exit_of(error)
            if job_exit is None:
                raise
            if not has_started:
                await _answer(send, job_exit.status, no_store(), str(job_exit).encode())
        finally:
            serving.reset(token)


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

    def __init__(self, running: Running) -> None:
        self._response = ActionResponse(running)
        self._has_chunks = False
        self.outcome = self._response.outcome
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


async def shielded(work: Coroutine[Any, Any, _T]) -> _T:
    """Run the work to its end, even if the caller is cancelled meanwhile. Returns its result, or raises its error.

    Only the work itself can be cancelled, as all tasks are when the event loop shuts down.
    """
    task = asyncio.ensure_future(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()


def raise_if_cancelled(error: BaseException | None) -> None:
    """Raise the error again if the event loop cancels this task; an action may also raise `CancelledError` itself."""
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        raise error


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
        return self._endpoints.respond(
            Visit(
                request,
                path=route_path(scope),
                owner=lambda: self._jobs.owner_of(request),
                mount=here.mount,
                sees_all=lambda: self._jobs.may_see_all(request),
                in_thread=False,
                manages_all=lambda: self._jobs.may_manage_all(request),
                origin=here.origin,
            )
        )


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
