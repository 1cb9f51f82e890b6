"""An application for transports that call one within their own process."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from backjob.http.wire import Reader
from backjob.model import Headers, Response
from backjob.testing._peer import PATIENCE, Received, ok

_UNPREFIXED = ("CONTENT_TYPE", "CONTENT_LENGTH")


class Application:
    """An application with two interfaces, `wsgi` and `asgi`. It puts every request into ``arrivals``; ``script`` responds."""

    def __init__(self, script: Callable[[Received], bytes] = ok) -> None:
        self.script = script
        self.arrivals: queue.Queue[Received] = queue.Queue()

    def next_call(self) -> Received:
        """Return the next request."""
        return self.arrivals.get(timeout=PATIENCE)

    def wsgi(self, environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        """Respond to a request of WSGI."""
        headers = [(key[5:], value) for key, value in environ.items() if key.startswith("HTTP_")]
        headers += [(key, environ[key]) for key in _UNPREFIXED if environ.get(key)]
        fields = tuple((name.lower().replace("_", "-"), value) for name, value in headers)
        response = self._respond(
            environ["REQUEST_METHOD"], environ["REQUEST_URI"], fields, environ["wsgi.input"].read()
        )
        start_response(f"{response.status} {response.reason}", list(response.headers))
        return [response.body]

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        """Respond to a request of ASGI."""
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        query = scope["query_string"].decode("latin-1")
        target = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
        fields = tuple(
            (bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in scope["headers"]
        )
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        response = await asyncio.wrap_future(self._in_thread(scope["method"], target, fields, body))
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})

    def _in_thread(self, *request: Any) -> Future[Response]:
        """Respond in a daemon thread, so that the process can end while ``script`` waits."""
        future: Future[Response] = Future()

        def respond() -> None:
            try:
                future.set_result(self._respond(*request))
            except Exception as error:
                future.set_exception(error)

        threading.Thread(target=respond, name="contract-application", daemon=True).start()
        return future

    def _respond(self, method: str, target: str, headers: Headers, body: bytes) -> Response:
        call = Received(method, target, headers, body)
        self.arrivals.put(call)
        reader = Reader(method, max_response=1 << 30)
        data = self.script(call)
        return reader.receive(data) or reader.receive(b"") or Response(500)
