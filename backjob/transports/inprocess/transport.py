"""`InProcessTransport`: the application runs in the process that sends."""

from __future__ import annotations

import inspect
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, Literal, TypeAlias

from backjob.errors import InvalidRequest, NotSent
from backjob.http.addresses import parse_base_url
from backjob.http.arguments import check_number
from backjob.model import Response, Seconds, check_duration
from backjob.process import PerProcess
from backjob.protocols import Delivery
from backjob.transports.inprocess.calls import CLOSED, Calls
from backjob.transports.settling import settle

__all__ = ["InProcessTransport", "Interface", "interface_of"]

Interface: TypeAlias = Literal["wsgi", "asgi"]

_ASGI_ARGUMENTS: Final = 3


class InProcessTransport:
    """Runs worker requests in this process: it calls the WSGI or ASGI application, without a server and without sockets.

    ``threads`` is how many requests it runs at once. It finds out which ``interface`` the application has, unless you name
    it. A WSGI application gets each request in a thread of its own; an ASGI application gets all of them in one event loop
    with its own thread, after its lifespan startup. ``base_url`` is what an action sees as its URL if no request has started
    its job: such as ``"https://your.site"``. The application needs our middleware, as on a server.

    Each process has its own threads, also after a fork. Raises `InvalidRequest`.
    """

    in_process: Final = True

    def __init__(
        self,
        app: Any,
        threads: int = 4,
        *,
        interface: Interface | None = None,
        base_url: str = "http://localhost",
        close_timeout: Seconds = 5.0,
    ) -> None:
        check_number("threads", threads, 1, whole=True)
        if interface not in (None, "wsgi", "asgi"):
            raise InvalidRequest("interface", f'must be "wsgi" or "asgi", not {interface!r}')
        self.interface: Interface = interface or interface_of(app)
        self.capacity: Final = threads
        self._app = app
        self._base = parse_base_url(base_url)
        self._close_timeout = check_duration("close_timeout", close_timeout)
        self._calls: PerProcess[Calls] = PerProcess(self._made)
        self._is_closed = False

    def __repr__(self) -> str:
        return f"InProcessTransport({self._app!r}, {self.capacity})"

    def _made(self) -> Calls:
        if self.interface == "wsgi":
            from backjob.transports.inprocess.threads import ThreadedCalls  # noqa: PLC0415 - only one of both is needed

            return ThreadedCalls(self._app, self._base, self.capacity)
        from backjob.transports.inprocess.loop import LoopCalls  # noqa: PLC0415 - imports asyncio

        return LoopCalls(self._app, self._base)

    def start(self) -> None:
        """Have the application start up now: of an ASGI application, its lifespan. Raises `NotSent` if that fails.

        Otherwise it starts up before its first request.
        """
        self._calls.get().start()

    def send(self, delivery: Delivery) -> Future[Response]:
        """Call the application in another thread, and return at once.

        The future's result is the complete response: a 500, which is logged, if the application raises an exception. Its
        exception is `NotSent`, or `ConnectionLost` if the transport was closed meanwhile. Cancelling it does not end the
        action. Its callbacks run in the thread of the action and must not block.
        """
        future: Future[Response] = Future()
        if self._is_closed:
            settle(future, NotSent(CLOSED))
        else:
            self._calls.get().send(delivery, future)
        return future

    def close(self) -> None:
        """Wait for running actions, at most ``close_timeout`` seconds, and have an ASGI application shut down.

        Actions that run longer go on until the process ends, but their deliveries end with `ConnectionLost`.
        """
        if not self._is_closed:
            self._is_closed = True
            self._calls.get().close(self._close_timeout)


def interface_of(app: Any) -> Interface:
    """Return whether an application is one of WSGI or of ASGI 3, by how it is called. Raises `InvalidRequest` ("app")."""
    if not callable(app):
        raise InvalidRequest("app", f"must be a WSGI or ASGI application, not a {type(app).__name__}")
    called = app
    while isinstance(called, partial):
        called = called.func
    is_function = inspect.isroutine(called) or inspect.isclass(called)
    if inspect.iscoroutinefunction(called if is_function else called.__call__):
        return "asgi"
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):
        return "wsgi"
    needed = [
        one
        for one in parameters
        if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) and one.default is one.empty
    ]
    return "asgi" if len(needed) >= _ASGI_ARGUMENTS else "wsgi"
