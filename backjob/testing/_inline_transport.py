"""The transport of `immediate`: calls the application while the caller waits."""

from __future__ import annotations

import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

from backjob.errors import NotSent
from backjob.http.addresses import parse_base_url
from backjob.http.serving import serving
from backjob.model import Request, Response
from backjob.process import in_event_loop
from backjob.protocols import Delivery
from backjob.transports.inprocess.transport import interface_of
from backjob.transports.inprocess.wsgi import call_wsgi
from backjob.worker.offload import serving_loop

if TYPE_CHECKING:
    import asyncio

_BASE: Final = parse_base_url("http://localhost")


class InlineTransport:
    """Calls a WSGI application in the caller's thread, and an ASGI application on the caller's event loop, if it is free.

    Both get a copy of the context: as with a server, the test does not see context variables that the action sets.
    """

    capacity: int | None = None
    in_process = True

    def __init__(self, app: Any) -> None:
        self._app = app
        self._is_asgi = interface_of(app) == "asgi"
        self._runner: asyncio.Runner | None = None

    def send(self, delivery: Delivery) -> Future[Response]:
        future: Future[Response] = Future()
        try:
            request = delivery.sign()
        except NotSent as error:
            future.set_exception(error)
        else:
            future.set_result(
                self._on_loop(request) if self._is_asgi else copy_context().run(call_wsgi, self._app, request, _BASE)
            )
        return future

    def close(self) -> None:
        """Close the event loop of this transport, if it needed one."""
        if self._runner is not None:
            self._runner.close()

    def _on_loop(self, request: Request) -> Response:
        import asyncio  # noqa: PLC0415 - only for ASGI

        from backjob.transports.inprocess.asgi import call_asgi  # noqa: PLC0415 - only for ASGI

        call = call_asgi(self._app, request, _BASE, _state())
        if in_event_loop():
            return _in_thread(call)
        loop = serving_loop()
        if loop is not None:
            return asyncio.run_coroutine_threadsafe(call, loop).result()
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(call, context=copy_context())


def _state() -> dict[str, Any] | None:
    """Return the lifespan's state, if the request being served has one."""
    state = getattr(serving.get(), "state", None)
    return None if state is None else dict(state)


def _in_thread(call: Coroutine[Any, Any, Response]) -> Response:
    """Run a coroutine on a loop of its own, in another thread: the loop of this one is blocked by its caller."""
    import asyncio  # noqa: PLC0415 - only for ASGI

    done: Future[Response] = Future()
    context = copy_context()

    def run() -> None:
        try:
            done.set_result(context.run(asyncio.run, call))
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="backjob-immediate").start()
    return done.result()
