"""The calls of an ASGI application: they share an event loop, which has a thread."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
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
    """The calls of an ASGI application in one process, each in a task with a fresh context.

    The application starts up before its first request, and shuts down at `close`, once no request is running.
    """

    def __init__(self, app: App, base: BaseURL) -> None:
        self._app = app
        self._base = base
        self._lock = threading.Lock()
        self._in_flight = InFlight()
        self._is_closed = False
        self._thread: threading.Thread | None = None

    # --- called from any thread -------------------------------------------------------------------------------------

    def start(self) -> None:
        loop = self._ensure_loop()
        try:
            asyncio.run_coroutine_threadsafe(self._started(), loop).result()
        except (CancelledError, RuntimeError) as error:
            raise NotSent("the event loop ended while the application started up") from error

    def send(self, delivery: Delivery, future: Future[Response]) -> None:
        self._in_flight.add(future)
        try:
            self._ensure_loop().call_soon_threadsafe(self._spawn, delivery, future, context=Context())
        except NotSent as error:
            settle(future, error)
        except RuntimeError as error:
            settle(future, NotSent(f"the event loop has ended: {error}"))

    def close(self, timeout: float) -> None:
        until = time.monotonic() + timeout
        with self._lock:
            self._is_closed = True
            thread = self._thread
        if thread is not None:
            with suppress(RuntimeError):  # it has ended just now
                self._loop.call_soon_threadsafe(self._closing.set)
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))
        lose(self._in_flight.all(), "the transport was closed while the application ran")

    def _ensure_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop, whose thread is started unless it runs. Raises `NotSent`."""
        with self._lock:
            if self._is_closed:
                raise NotSent(CLOSED)
            if self._thread is None:
                self._start_thread()
            return self._loop

    def _start_thread(self) -> None:
        runner = asyncio.Runner()
        self._loop = runner.get_loop()
        self._closing = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lifespan: Lifespan | None = None
        thread = threading.Thread(target=self._run, args=(runner,), name="backjob-loop", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            runner.close()
            raise NotSent(f"no thread can be started: {error}") from error
        self._thread = thread

    # --- called in the thread ---------------------------------------------------------------------------------------

    def _run(self, runner: asyncio.Runner) -> None:
        reason = "the transport was closed"
        try:
            with runner:
                runner.run(self._until_closed())
        except BaseException as error:  # a task that the application started may raise SystemExit
            reason = f"the event loop ended: {type(error).__name__}"
            _log.exception("the event loop of the application ended; the next worker request starts a new one")
        finally:
            with self._lock:
                self._thread = None
                orphans = self._in_flight.all()
            lose(orphans, reason)

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
            settle(future, ConnectionLost("the event loop ended"))
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
