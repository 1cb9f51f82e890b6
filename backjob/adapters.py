"""The parts of an adapter: how a web framework or a server receives worker requests, and serves the status routes.

`backjob.wsgi` and `backjob.asgi` are made of these parts, and so is an adapter for a framework that is neither. It
translates requests and responses, and leaves all decisions to a `Receiver`. There are four steps from a worker request to
the end of its job:

1. **Open**: `Receiver.open` verifies the signature of target and headers, before the body is read. It returns None for any
   other request, which the adapter passes on.
2. **Length**: the adapter reads ``length`` bytes of body.
3. **Claim** and 4. **end** are both in `Receiver.run`: from the claim on, only this request may run the action, and the
   end is written before the response to it is sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager

from backjob.http.listening import Listener, listener_of_socket
from backjob.http.restoring import caller_of, restored_headers
from backjob.http.serving import Serving, serving
from backjob.jobs import BackJob, Engine, engine_of
from backjob.lifecycle import status_line
from backjob.model import Request, Response
from backjob.status.endpoints import Endpoints, StatusResponse, Visit
from backjob.worker.offload import note_loop, raise_if_cancelled, shielded, to_thread
from backjob.worker.outcomes import Outcome, error_to_raise, exit_of, status_of
from backjob.worker.replies import CONCURRENCY_HEADER, Reply, WorkerRequest, no_store
from backjob.worker.responses import ActionResponse
from backjob.worker.running import Running

__all__ = [
    "ActionResponse",
    "Listener",
    "Receiver",
    "Reply",
    "Running",
    "Serving",
    "StatusResponse",
    "WorkerRequest",
    "body_of",
    "caller_of",
    "exit_response",
    "listener_of_socket",
    "restored_headers",
    "served",
]


class Receiver:
    """What an adapter calls for the requests that its server gets. Thread-safe; keep one for each `BackJob`."""

    def __init__(self, jobs: BackJob | Engine) -> None:
        self._engine = engine_of(jobs)
        self._endpoints = Endpoints(self._engine, self._engine.status_prefix)

    def open(
        self, request: Request, listener_of: Callable[[], Listener], *, threads: float | None = None
    ) -> WorkerRequest | None:
        """Return the worker request, or None for any other request. Call it for every request, before its body is read.

        The ``request`` has the path that the application routes, below its mount, as on the wire. ``listener_of()``
        returns the server's socket, from which backjob learns the address; it raises `AddressUnknown` if the server does
        not show it. ``threads`` is how many requests the server handles at once: ``math.inf`` for an event loop, None if
        that is unknown. Raises `Reply` to a worker request that must not run, and to a probe.
        """
        self._engine.request_arrived(listener_of, threads)
        try:
            return self._engine.worker_request(lambda: (request,), listener_of)
        except Reply as reply:
            reply.headers = (*reply.headers, (CONCURRENCY_HEADER, "one" if threads == 1 else "many"))
            raise

    def run(self, opened: WorkerRequest, body: bytes, act: Callable[[Running, ActionResponse], object]) -> Response:
        """Claim the job, run its action to the end, write what follows, and return the response to the worker request.

        ``act(running, response)`` calls the application with the request that ``start()`` was given, passes the
        application's response to ``response``, and closes it. Let its exceptions propagate. Raises `Reply` if the job can't
        be claimed, and the error of the action if the server must see it.
        """
        running = self._engine.worker.claim(opened, body)
        response = ActionResponse(running)
        error: BaseException | None = None
        try:
            with running.active():
                act(running, response)
        except BaseException as raised:
            error = raised
        outcome = response.outcome(error, self._engine.clock.now())
        self._engine.worker.end(running, outcome)
        return _answer(running, opened, outcome)

    async def arun(
        self, opened: WorkerRequest, body: bytes, act: Callable[[Running, ActionResponse], Awaitable[object]]
    ) -> Response:
        """`run` in an event loop. A caller that is cancelled, as by a lost connection, does not interrupt the action."""
        running = await shielded(to_thread(self._engine.worker.claim, opened, body))
        return _answer(running, opened, await shielded(self._act_and_end(running, act)))

    async def _act_and_end(
        self, running: Running, act: Callable[[Running, ActionResponse], Awaitable[object]]
    ) -> Outcome:
        from backjob.worker.task_exits import contain_tasks  # noqa: PLC0415 - it imports asyncio, which WSGI does not need

        response = ActionResponse(running)
        error: BaseException | None = None
        try:
            contain_tasks()
            with running.active():
                await act(running, response)
        except BaseException as raised:
            error = raised
        outcome = response.outcome(error, self._engine.clock.now())
        await to_thread(self._engine.worker.end, running, outcome)
        raise_if_cancelled(error)
        return outcome

    def respond(self, here: Serving, rest: str) -> StatusResponse:
        """Return the response to a request for a status route. ``rest`` is its path after ``status_prefix``, decoded."""
        with served(here):
            request = here.request
            return self._endpoints.respond(visit(self._engine, request, here, rest, here.mount + self.status_prefix))

    async def arespond(self, here: Serving, rest: str) -> StatusResponse:
        """`respond` in an event loop."""
        return await to_thread(self.respond, here, rest)

    @property
    def status_prefix(self) -> str:
        """The path of the status routes below the application's mount: ``/backjob``."""
        return self._engine.status_prefix

    def leave(self) -> None:
        """Have other processes deliver what this one could not deliver yet: call it when the server shuts down. Blocks."""
        self._engine.leave()

    async def aleave(self) -> None:
        """`leave` that does not block the event loop."""
        await to_thread(self._engine.leave)


@contextmanager
def served(here: Serving) -> Iterator[None]:
    """Make this the request being served, of which `BackJob.start` and the hooks take credentials, host and owner."""
    note_loop()
    token = serving.set(here)
    try:
        yield
    finally:
        serving.reset(token)


def exit_response(error: BaseException) -> Response | None:
    """Return the response to an ordinary request whose route left by a `JobExit`, as ``fail()`` does; otherwise None."""
    job_exit = exit_of(error)
    return None if job_exit is None else Response(job_exit.status, "", no_store(), str(job_exit).encode())


async def body_of(response: StatusResponse) -> AsyncIterator[bytes]:
    """Yield the chunks of a status route's response, and close what it is read from: use it in `contextlib.aclosing`.

    In a thread, iterate over ``response.stream or response.download or [response.body]`` and close that.
    """
    if response.stream is not None:
        try:
            async for chunk in response.stream:
                yield chunk
        finally:
            response.stream.close()
    elif response.download is not None:
        try:
            while chunk := await to_thread(response.download.read):
                yield chunk
        finally:
            await to_thread(response.download.close)
    else:
        yield response.body


def visit(engine: Engine, request: Request, here: Serving, path: str, mount: str) -> Visit:
    """Return the visit of a status route. The hooks get the ``request``."""
    return Visit(
        request,
        path=path,
        owner=lambda: engine.owner_of(request),
        mount=mount,
        sees_all=lambda: engine.may_see_all(request),
        in_thread=here.in_thread,
        manages_all=lambda: engine.may_manage_all(request),
        origin=here.origin,
    )


def _answer(running: Running, opened: WorkerRequest, outcome: Outcome) -> Response:
    """Return the response to the monitor, or raise the action's error if the server must see that."""
    if (error := error_to_raise(running, outcome)) is not None:
        raise error
    status = status_of(outcome)
    return Response(status, status_line(status, outcome.reason).partition(" ")[2], opened.headers)
