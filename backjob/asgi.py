"""ASGI 3: translate, then ask `worker`. `BackJobMiddleware` must be the outermost of the application's own.

An action is shielded from its client: a lost connection neither cancels it nor shows it a ``http.disconnect``. What may
block, the store above all, is done in other threads.
"""

from __future__ import annotations

import asyncio
import codecs
import socket
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from contextlib import suppress
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import unquote

from backjob.errors import AddressUnknown
from backjob.http.addresses import is_ip_literal, learnt_base_url
from backjob.http.serving import FORWARDED_FIELDS, Serving, serving, text_decoder
from backjob.http.targets import canonical_path
from backjob.jobs import BackJob, Engine, engine_of
from backjob.model import Caller, Headers, Request
from backjob.protocols import Verified
from backjob.status.endpoints import Answer, Ask, Endpoints
from backjob.status.streaming.stream import Stream
from backjob.worker.claiming import CONCURRENCY_HEADER, Outcome, Refusal, exit_of, no_store
from backjob.worker.running import Running

__all__ = [
    "BackJobMiddleware",
    "StatusApp",
    "base_url_of",
    "request_of",
    "restored",
    "serving_of",
    "spellings",
    "to_its_end",
]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
# To a type checker no framework's own types of these are another's, so that an application takes and is given any.
App: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

_T = TypeVar("_T")

_LONGEST_SEND: Final = 30.0
_FORWARDED: Final = frozenset(name.lower().encode() for name in FORWARDED_FIELDS)


class BackJobMiddleware:
    """Recognises worker requests and runs their actions; everything else passes through as it came.

    With ``status`` it also serves the status routes under the `BackJob`'s ``status_prefix``. Lifespan and websockets are
    let pass.
    """

    def __init__(self, app: App, jobs: BackJob | Engine, status: bool = True) -> None:
        self._app = app
        self._jobs = engine_of(jobs)
        self._status = StatusApp(jobs) if status else None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._jobs.monitor.ensure_running()
        if self._jobs.transport is None:
            self._learn(scope)
        try:
            verified = self._jobs.worker.open(*spellings(scope))
            if verified is not None:
                await self._work(scope, receive, send, verified)
                return
        except Refusal as refusal:
            headers = (*refusal.headers, (CONCURRENCY_HEADER, "many"))
            await _answer(send, refusal.status, headers, str(refusal).encode())
            return
        if self._status is not None and (below := self._status.below(scope)) is not None:
            await self._status(below, receive, send)
            return
        await self._pass_on(scope, receive, send)

    def _learn(self, scope: Scope) -> None:
        try:
            self._jobs.learn_address(base_url_of(scope))
        except AddressUnknown:
            return  # start() says so, to whom it concerns

    # --- a worker request -------------------------------------------------------------------------------------------

    async def _work(self, scope: Scope, receive: Receive, send: Send, verified: Verified) -> None:
        length = self._jobs.worker.body_length(_field(scope, b"content-length"))
        body = await _body(receive, length)
        if body is None:
            return  # the client left before it had sent all: nothing was claimed
        running = await to_its_end(asyncio.to_thread(self._jobs.worker.claim, verified, body))
        shown = restored(scope, verified.request, running.job.caller)
        outcome = await to_its_end(self._act_and_end(shown, body, running))
        if outcome.error is not None and exit_of(outcome.error) is None:
            raise outcome.error
        with suppress(OSError):  # the client may have left
            await _answer(send, outcome.status or 500, no_store(), b"")

    async def _act_and_end(self, scope: Scope, body: bytes, running: Running) -> Outcome:
        token = serving.set(_Serving(scope))
        try:
            outcome = await self._act(scope, body, running)
        finally:
            serving.reset(token)
        await asyncio.to_thread(self._jobs.worker.end, running, outcome)
        return outcome

    async def _act(self, scope: Scope, body: bytes, running: Running) -> Outcome:
        response = _Collected(running)
        error: BaseException | None = None
        with running.active():
            try:
                await self._app(scope, _Replayed(body, response.complete), response)
            except BaseException as raised:
                error = raised
        return Outcome(response.status, "", response.location, error)

    # --- an ordinary request ----------------------------------------------------------------------------------------

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def begin(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        token = serving.set(_Serving(scope))
        try:
            await self._app(scope, receive, begin)
        except BaseException as error:
            left = exit_of(error)
            if left is None:
                raise
            if not begun:
                await _answer(send, left.status, no_store(), str(left).encode())
        finally:
            serving.reset(token)


class _Replayed:
    """``receive`` of an action: its body in one piece, and no disconnect before its response is complete.

    That one frameworks wait for: it ends their own watch over the connection.
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
    """``send`` of an action: takes the first line, and of a streamed text the chunks as output."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._decoder: codecs.IncrementalDecoder | None = None
        self.status = 0
        self.location: str | None = None
        self.complete = asyncio.Event()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            fields = {bytes(name).lower(): bytes(value).decode("latin-1") for name, value in message.get("headers", ())}
            self.location = fields.get(b"location")
            self._decoder = text_decoder(
                self.status, fields.get(b"content-type", ""), has_length=b"content-length" in fields
            )
        elif message["type"] == "http.response.body":
            if self._decoder is not None:
                self._running.write(self._decoder.decode(message.get("body", b"")))
            if not message.get("more_body"):
                self.complete.set()


async def to_its_end(work: Coroutine[Any, Any, _T]) -> _T:
    """What the work returns or raises. Cancelling the caller does not end it: the caller waits on, and hears no more.

    Work that is cancelled itself, as everything is when the event loop is shut down, ends as it wants.
    """
    task = asyncio.ensure_future(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()


class StatusApp:
    """The status routes as an ASGI application of its own, to be mounted at the `BackJob`'s ``status_prefix``.

    Up to 1000 event streams are served at once, or as many as the `BackJob` was given as ``streams``.
    """

    def __init__(self, jobs: BackJob | Engine) -> None:
        self._jobs = engine_of(jobs)
        self._endpoints = Endpoints(self._jobs, self._jobs.status_prefix)

    def below(self, scope: Scope) -> Scope | None:
        """The scope as it is below the prefix, or None if the request is for something else."""
        root = scope.get("root_path", "")
        rest = self._endpoints.below(_route_path(scope))
        if rest is None:
            return None
        mount = root + self._jobs.status_prefix
        return {**scope, "root_path": mount, "path": mount + rest}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        answer = await asyncio.to_thread(self._answer, scope)
        if answer.stream is None:
            await _answer(send, answer.status, answer.headers, answer.body)
        else:
            await _stream(receive, send, answer, answer.stream)

    def _answer(self, scope: Scope) -> Answer:
        request = request_of(scope)
        return self._endpoints.answer(
            Ask(
                method=request.method,
                path=_route_path(scope),
                query=request.query,
                headers=request.headers,
                owner=self._jobs.owner_of(request),
                mount=_Serving(scope).mount,
                in_thread=False,
            )
        )


# --- translating ----------------------------------------------------------------------------------------------------


class _Serving:
    """A scope, translated when somebody asks.

    The root path and the path are those of the middleware: frameworks that mount applications below themselves change them.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._root: str = scope.get("root_path", "")
        self._path: str = scope["path"]

    @property
    def request(self) -> Request:
        return request_of({**self._scope, "path": self._path})

    @property
    def caller(self) -> Caller:
        scope = self._scope
        headers = _headers(scope)
        values = {name.lower(): value for name, value in headers}
        client = scope.get("client")
        return Caller(
            scheme=scope.get("scheme", "http"),
            host=values.get("host", ""),
            address=str(client[0]) if client else "",
            forwarded=tuple((name, values[name.lower()]) for name in FORWARDED_FIELDS if name.lower() in values),
        )

    @property
    def origin(self) -> str:
        caller = self.caller
        return f"{caller.scheme}://{caller.host}"

    @property
    def mount(self) -> str:
        return canonical_path(self._root.encode())


def serving_of(scope: Scope) -> Serving:
    """The core's view of a request, for where no middleware shows one."""
    return _Serving(scope)


def request_of(scope: Scope) -> Request:
    """The request as it arrived, without its body."""
    raw = scope.get("raw_path")
    path = raw.decode("latin-1").partition("?")[0] if raw else canonical_path(scope["path"].encode()) or "/"
    query = scope.get("query_string", b"")
    if isinstance(query, bytes):  # Django's test client gives text
        query = query.decode("latin-1")
    return Request(scope["method"], f"{path}?{query}" if query else path, _headers(scope), raw=bool(raw))


def spellings(scope: Scope) -> tuple[Request, ...]:
    """The request as it may have been on the wire: as the scope has it, or without the root path.

    A proxy in front strips the root path; uvicorn puts it back in front of what it received, others do not.
    """
    request = request_of(scope)
    root = canonical_path(scope.get("root_path", "").encode())
    if not root or not request.target.startswith(f"{root}/"):
        return (request,)
    stripped = Request(request.method, request.target.removeprefix(root), request.headers, raw=request.raw)
    return (request, stripped)


def base_url_of(scope: Scope) -> str:
    """The server's own base URL, from the address of its socket. Raises `AddressUnknown` where it shows none.

    Behind TLS that ends at a proxy the scheme is the client's: a socket's own encryption can't be seen here, so that
    only ``http`` is ever learnt.
    """
    server = scope.get("server")
    if not server or server[1] is None or not is_ip_literal(str(server[0])):
        raise AddressUnknown("the server does not tell the address of a TCP socket: set the base URL")
    host, port = str(server[0]), int(server[1])
    return learnt_base_url((host, port), socket.AF_INET6 if ":" in host else socket.AF_INET, tls=False)


def restored(scope: Scope, request: Request, caller: Caller | None) -> Scope:
    """The scope as the application shall see it: the request that was asked for, as from the client that started it."""
    shown = {**scope, "query_string": request.query.encode("latin-1")}
    root: str = scope.get("root_path", "")
    if caller is not None and caller.mount and scope["path"] == root + unquote(request.path):
        # The server has put the root path in front of a target that began with it.
        shown["path"] = scope["path"].removeprefix(root)
        if scope.get("raw_path"):
            shown["raw_path"] = scope["raw_path"].removeprefix(caller.mount.encode())
    fields = [(name, value) for name, value in scope["headers"] if bytes(name).lower() not in _FORWARDED]
    if caller is not None:
        shown["scheme"] = caller.scheme
        shown["client"] = (caller.address, 0) if caller.address else None
        if caller.host:
            fields = [(name, value) for name, value in fields if bytes(name).lower() != b"host"]
            fields.insert(0, (b"host", caller.host.encode("latin-1")))
        fields += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in caller.forwarded]
    shown["headers"] = fields
    return shown


def _route_path(scope: Scope) -> str:
    """The path below the root path, which servers put in front of it or not."""
    path, root = scope["path"], scope.get("root_path", "")
    return str(path.removeprefix(root) if root and f"{path}/".startswith(f"{root}/") else path)


def _headers(scope: Scope) -> Headers:
    return tuple(
        (bytes(name).decode("latin-1").title(), bytes(value).decode("latin-1")) for name, value in scope["headers"]
    )


def _field(scope: Scope, name: bytes) -> str | None:
    return next((bytes(value).decode("latin-1") for key, value in scope["headers"] if bytes(key).lower() == name), None)


async def _body(receive: Receive, length: int) -> bytes | None:
    """The body, of at most so many bytes; None if the client left before all of it had come."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if not message.get("more_body") or len(body) >= length:
            return bytes(body[:length])


async def _stream(receive: Receive, send: Send, answer: Answer, stream: Stream) -> None:
    """Send a stream to its end, or until the client has left, or takes nothing for 30 s."""

    async def give(message: Message) -> None:
        # A server waits for a client that does not read as long as that likes, beyond the stream's lifetime.
        async with asyncio.timeout(_LONGEST_SEND):
            await send(message)

    listening = asyncio.ensure_future(_until_gone(receive, stream))
    try:
        await give({"type": "http.response.start", "status": answer.status, "headers": _fields(answer.headers)})
        async for chunk in stream:
            await give({"type": "http.response.body", "body": chunk, "more_body": True})
        await give({"type": "http.response.body", "body": b"", "more_body": False})
    except OSError:
        return  # TimeoutError is one; and some servers say so that the client has left
    finally:
        stream.close()
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening


async def _until_gone(receive: Receive, stream: Stream) -> None:
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
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
