"""backjob for aiohttp.web: call ``setup(app, jobs)`` after you have added the application's own middlewares."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from functools import partial

from aiohttp import StreamReader, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.typedefs import Handler
from attrs import field, frozen
from multidict import CIMultiDict
from yarl import URL

from backjob import BackJob
from backjob.adapters import (
    ActionCall,
    ActionResponse,
    Arrival,
    Listener,
    Receiver,
    Reply,
    body_of,
    exit_response,
    listener_of_socket,
    served,
)
from backjob.protocols import Request, Response
from backjob.redaction import SignatureFilter

LONGEST_SEND = 30.0  # s


def setup(app: web.Application, jobs: BackJob) -> None:
    """Run the jobs of this application, and serve the status routes."""
    receiver = Receiver(jobs)

    @web.middleware
    async def receive(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            opened = receiver.open(arrived(request), partial(listener_of, request))
            if opened is not None:
                body = await request.content.readexactly(opened.length) if opened.length else b""
                return sent(await receiver.arun(opened, body, partial(act, request, handler)))
        except Reply as reply:
            await asyncio.sleep(reply.hold)
            return sent(reply.response)
        with served(arrived(request)):
            try:
                return await handler(request)
            except BaseException as error:
                response = exit_response(error)
                if response is None:
                    raise
                return sent(response)

    async def status(request: web.Request) -> web.StreamResponse:
        answer = await receiver.arespond(arrived(request), request.match_info["rest"])
        if answer.stream is None and answer.download is None:
            return sent(answer)
        response = web.StreamResponse(status=answer.status, headers=CIMultiDict(answer.headers))
        async with aclosing(body_of(answer)) as chunks:
            await response.prepare(request)
            async for chunk in chunks:
                async with asyncio.timeout(LONGEST_SEND):  # the client may have stopped reading
                    await response.write(chunk)
        return response

    app.middlewares.insert(0, receive)
    app.router.add_route("*", receiver.status_prefix + "{rest:(/.*)?}", status)
    app.on_shutdown.append(lambda _app: receiver.aleave())
    for name in ("aiohttp.access", "gunicorn.access"):
        logging.getLogger(name).addFilter(SignatureFilter())


async def act(request: web.Request, handler: Handler, call: ActionCall) -> None:
    """Call the handler with the request that ``start()`` was given, and pass its response on."""
    wanted, caller = call.request, call.caller or arrived(request).caller
    restored = request.clone(
        rel_url=URL(wanted.target, encoded=True),
        headers=[(name, value.encode("latin-1").decode("utf-8", "replace")) for name, value in wanted.headers],
        scheme=caller.scheme,
        host=caller.host,
        remote=caller.address,
    )
    payload = StreamReader(request.protocol, len(wanted.body) + 1)
    payload.feed_data(wanted.body)
    payload.feed_eof()
    # aiohttp has no public way to give a request another body, and another place for its response.
    restored._payload, restored._payload_writer = payload, Collector(call.response)  # noqa: SLF001
    with served(arrived(restored)):
        try:
            answer = await handler(restored)
        except web.HTTPException as raised:
            answer = raised
        if isinstance(answer, web.FileResponse):
            answer.enable_compression(web.ContentCoding.identity)  # otherwise sendfile() would bypass the collector
        await answer.prepare(restored)
        await answer.write_eof()


class Collector(AbstractStreamWriter):
    """What the response of an action is written to, instead of the connection."""

    def __init__(self, response: ActionResponse) -> None:
        self._response = response
        self._ignored: set[str] = set()

    async def write_headers(self, status_line: str, headers: CIMultiDict[str]) -> None:
        _, status, reason = status_line.split(" ", 2)
        fields = [(name, value) for name, value in headers.items() if name not in self._ignored]
        self._response.begin(int(status), reason, fields)

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        if self._response.may_block:
            await asyncio.to_thread(self._response.write, bytes(chunk))
        else:
            self._response.write(bytes(chunk))

    async def write_eof(self, chunk: bytes = b"") -> None:
        await self.write(chunk)
        self._response.end()

    async def drain(self) -> None: ...

    def enable_chunking(self) -> None: ...

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None:
        self._ignored.add(hdrs.CONTENT_ENCODING)  # nothing is compressed here


@frozen
class AiohttpRequest(Request):
    """The request that the hooks get: ``http`` is aiohttp's own."""

    http: web.Request = field(kw_only=True, repr=False, eq=False)


def arrived(request: web.Request) -> Arrival:
    """Return a request as backjob sees it. Header fields are Latin-1 there, and UTF-8 in aiohttp."""
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers)
    seen = AiohttpRequest(request.method, request.raw_path, headers, http=request)
    return Arrival(seen, scheme=request.scheme, address=request.remote or "", in_thread=False)


def listener_of(request: web.Request) -> Listener:
    """Return the socket of the server."""
    return listener_of_socket(request.get_extra_info("socket"), tls=bool(request.get_extra_info("sslcontext")))


def sent(answer: Response) -> web.Response:
    """Return backjob's response as aiohttp's own."""
    headers = CIMultiDict(answer.headers)
    return web.Response(status=answer.status, reason=answer.reason or None, headers=headers, body=answer.body)
