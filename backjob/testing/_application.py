"""An application for transports that call one within their own process."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from backjob.http.wire import Reader
from backjob.model import Headers, Response
from backjob.testing._peer import PATIENCE, Received, ok

_MOST_AT_ONCE = 50
_UNPREFIXED = ("CONTENT_TYPE", "CONTENT_LENGTH")


class Application:
    """An application with two interfaces, `wsgi` and `asgi`. It puts every request into ``arrivals``; ``script`` responds."""

    def __init__(self, script: Callable[[Received], bytes] = ok) -> None:
        self.script = script
        self.arrivals: queue.Queue[Received] = queue.Queue()
        self._threads = ThreadPoolExecutor(_MOST_AT_ONCE)

    def next_call(self) -> Received:
        """Return the next request."""
        return self.arrivals.get(timeout=PATIENCE)

    def close(self) -> None:
        """Have the threads end once they have responded."""
        self._threads.shutdown(wait=False)

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
        run = asyncio.get_running_loop().run_in_executor
        response = await run(self._threads, self._respond, scope["method"], target, fields, body)
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})

    def _respond(self, method: str, target: str, headers: Headers, body: bytes) -> Response:
        call = Received(method, target, headers, body)
        self.arrivals.put(call)
        reader = Reader(method, max_response=1 << 30)
        data = self.script(call)
        return reader.receive(data) or reader.receive(b"") or Response(500)
