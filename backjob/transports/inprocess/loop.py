"""The calls of an ASGI application: they share an event loop, which has a thread."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from contextvars import Context

from backjob.errors import ConnectionLost, NotSent, TransportError
from backjob.http.addresses import BaseURL
from backjob.model import Response
from backjob.protocols import Delivery
from backjob.transports.inprocess.asgi import App, Lifespan, call_asgi
from backjob.transports.inprocess.calls import CLOSED, InFlight, lose, signed
from backjob.transports.inprocess.responses import failed
from backjob.transports.settling import settle

_log = logging.getLogger("backjob")


class LoopCalls:
    """The calls of an ASGI application in one process. If its event loop ends, the next call starts another one."""

    def __init__(self, app: App, base: BaseURL) -> None:
        self._app = app
        self._base = base
        self._lock = threading.Lock()
        self._is_closed = False
        self._served: ServedLoop | None = None

    def start(self) -> None:
        self._ensure_loop().start()

    def send(self, delivery: Delivery, future: Future[Response]) -> None:
        try:
            served = self._ensure_loop()
        except NotSent as error:
            settle(future, error)
        else:
            served.send(delivery, future)

    def close(self, timeout: float) -> None:
        with self._lock:
            self._is_closed = True
            served = self._served
        if served is not None:
            served.close(timeout)

    def _ensure_loop(self) -> ServedLoop:
        """Return the loop, which is started unless there is one. Raises `NotSent`."""
        with self._lock:
            if self._is_closed:
                raise NotSent(CLOSED)
            if self._served is None:
                self._served = ServedLoop(self._app, self._base, self._forget)
            return self._served

    def _forget(self, served: ServedLoop) -> None:
        with self._lock:
            if self._served is served:
                self._served = None


class ServedLoop:
    """An event loop with its thread, and the calls in it, each in a task with a fresh context.

    The application starts up before its first request, and shuts down at `close`, once no request is running. ``on_end`` is
    called with this object when the loop takes no more calls. Raises `NotSent` if the system starts no thread.
    """

    def __init__(self, app: App, base: BaseURL, on_end: Callable[[ServedLoop], object]) -> None:
        self._app = app
        self._base = base
        self._on_end = on_end
        self._in_flight = InFlight()
        self._is_closed = False
        self._closing = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lifespan: Lifespan | None = None
        runner = asyncio.Runner()
        self._loop = runner.get_loop()
        self._thread = threading.Thread(target=self._run, args=(runner,), name="backjob-loop", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            runner.close()
            raise NotSent(f"no thread can be started: {error}") from error

    # --- called from any thread -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Have the application start up. Raises `NotSent`."""
        try:
            asyncio.run_coroutine_threadsafe(self._started(), self._loop).result()
        except (CancelledError, RuntimeError) as error:
            raise NotSent("the event loop ended while the application started up") from error

    def send(self, delivery: Delivery, future: Future[Response]) -> None:
        """Call the application, and settle the future."""
        self._in_flight.add(future)
        try:
            self._loop.call_soon_threadsafe(self._spawn, delivery, future, context=Context())
        except RuntimeError as error:
            settle(future, NotSent(f"the event loop has ended: {error}"))

    def close(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for the calls and the shutdown; calls that still run then count as lost."""
        until = time.monotonic() + timeout
        self._is_closed = True
        with suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._closing.set)
        if self._thread is not threading.current_thread():
            self._thread.join(max(0.0, until - time.monotonic()))
        lose(self._in_flight.all(), "the transport was closed while the application ran")

    # --- called in the thread ---------------------------------------------------------------------------------------

    def _run(self, runner: asyncio.Runner) -> None:
        try:
            with runner:
                try:
                    runner.run(self._until_closed())
                except BaseException:  # a task that the application started may raise SystemExit
                    _log.exception("the event loop of the application ended; the next worker request starts a new one")
                finally:
                    self._on_end(self)  # before the tasks are cancelled: what follows their calls starts another loop
        finally:
            lose(self._in_flight.all(), "the event loop of the application ended")

    async def _until_closed(self) -> None:
        await self._closing.wait()
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._lifespan is not None:
            await self._lifespan.stop()

    def _spawn(self, delivery: Delivery, future: Future[Response]) -> None:
        task = self._loop.create_task(self._serve(delivery, future))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, delivery: Delivery, future: Future[Response]) -> None:
        if future.cancelled():
            return
        try:
            state = await self._started()
            if self._is_closed:
                raise NotSent(CLOSED)
            request = signed(delivery)
        except TransportError as error:
            settle(future, error)
            return
        del delivery  # the job may take hours: free the memory now
        try:
            response = await call_asgi(self._app, request, self._base, state)
        except asyncio.CancelledError:
            settle(future, ConnectionLost("the event loop of the application ended"))
            raise
        except BaseException:  # sys.exit() must not end the loop
            response = failed(request)
        settle(future, response)

    async def _started(self) -> dict[str, object]:
        """Return the state of the lifespan once the application has started up. Raises `NotSent`."""
        if self._lifespan is None:
            self._lifespan = Lifespan(self._app)
            self._starting = asyncio.create_task(self._lifespan.start())
        lifespan = self._lifespan
        try:
            await asyncio.shield(self._starting)
        except NotSent:
            if self._lifespan is lifespan:
                self._lifespan = None  # the next request tries again
            raise
        return lifespan.state
