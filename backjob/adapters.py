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

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

from attrs import evolve, frozen

from backjob.http.listening import Listener, listener_of_socket
from backjob.http.restoring import caller_of, restored_headers
from backjob.http.serving import Serving, serving
from backjob.jobs import BackJob, Engine, engine_of
from backjob.lifecycle import status_line
from backjob.model import Caller, Job, Request, Response
from backjob.status.endpoints import Endpoints, StatusResponse, Visit
from backjob.worker.offload import note_loop, raise_if_cancelled, shielded, to_thread
from backjob.worker.outcomes import Outcome, error_to_raise, left_by, status_of
from backjob.worker.replies import CONCURRENCY_HEADER, Reply, WorkerRequest, no_store
from backjob.worker.responses import ActionResponse
from backjob.worker.running import Running

__all__ = [
    "ActionCall",
    "ActionResponse",
    "Arrival",
    "Listener",
    "Receiver",
    "Reply",
    "StatusResponse",
    "WorkerRequest",
    "body_of",
    "exit_response",
    "listener_of_socket",
    "served",
]


@frozen(eq=False, repr=False)
class Arrival:
    """A request that arrived, for `served` and the methods of a `Receiver`.

    The ``request`` has no body. Its target is the path that the application routes, below the ``mount``, percent-encoded as
    on the wire, and the query. Hooks of the application, such as ``owner``, get it: add your framework's request in a
    subclass. ``scheme`` and ``address`` are those of the client as the server sees it. ``in_thread``: the response occupies
    a thread until it is sent, as it does not in an event loop. ``is_test_client``: no server received the request.
    """

    request: Request
    scheme: str
    address: str
    mount: str = ""
    in_thread: bool = True
    is_test_client: bool = False

    @property
    def caller(self) -> Caller:
        """Scheme, host and address of the client, and the header fields of proxies."""
        return caller_of(self.request.headers, scheme=self.scheme, address=self.address)

    @property
    def origin(self) -> str:
        """``scheme://host``."""
        return f"{self.scheme}://{self.caller.host}"

    def changed_cookies(self) -> Mapping[str, str | None]:
        """Return the cookies that the response is going to set because the session was changed; None deletes one.

        A job that is started then gets them. By default there are none: override it if your framework can say so.
        """
        return {}


@frozen(eq=False, repr=False)
class ActionCall:
    """The call of an action that `Receiver.run` wants: call the application with the ``request``, as from its ``caller``.

    Pass the application's response to the ``response``. ``job`` is the job as claimed.
    """

    running: Running
    opened: WorkerRequest
    body: bytes
    response: ActionResponse

    @property
    def request(self) -> Request:
        """The request that ``start()`` was given, with its body, and the header fields as its caller's client sent them."""
        headers = restored_headers(self.opened.request.headers, self.caller, self.running.fields)
        return evolve(self.opened.request, headers=headers, body=self.body)

    @property
    def caller(self) -> Caller | None:
        """Scheme, host, address and mount that the application must see, or None if no request started the job."""
        return self.running.job.caller

    @property
    def job(self) -> Job:
        return self.running.job


class Receiver:
    """What an adapter calls for the requests that its server gets. Thread-safe; keep one for each `BackJob`."""

    def __init__(self, jobs: BackJob | Engine) -> None:
        self._engine = engine_of(jobs)
        self._endpoints = Endpoints(self._engine, self._engine.status_prefix)

    def open(
        self, arrival: Arrival, listener_of: Callable[[], Listener], *, threads: int | None = None
    ) -> WorkerRequest | None:
        """Return the worker request, or None for any other request. Call it for every request, before its body is read.

        ``listener_of()`` returns the server's socket, from which backjob learns the address; see `listener_of_socket`.
        ``threads`` is how many requests a server with threads handles at once, or None if that is unknown. Raises `Reply` to
        a worker request that must not run, and to a probe.
        """
        if not arrival.is_test_client:
            self._engine.request_arrived(listener_of, threads if arrival.in_thread else math.inf)
        try:
            return self._engine.worker_request(lambda: (arrival.request,), listener_of)
        except Reply as reply:
            reply.headers = (*reply.headers, (CONCURRENCY_HEADER, "one" if threads == 1 else "many"))
            raise

    def run(self, opened: WorkerRequest, body: bytes, act: Callable[[ActionCall], object]) -> Response:
        """Claim the job, run its action to the end, write what follows, and return the response to the worker request.

        ``act(call)`` does what the `ActionCall` says, and closes the application's response. It lets the application's
        exceptions propagate. Raises `Reply` if the job can't be claimed, and the action's error if the server must see that.
        """
        running = self._engine.worker.claim(opened, body)
        response = ActionResponse(running)
        error: BaseException | None = None
        try:
            with running.active():
                act(ActionCall(running, opened, body, response))
        except BaseException as raised:
            error = raised
        outcome = response.outcome(error, self._engine.clock.now())
        self._engine.worker.end(running, outcome)
        return _answer(running, outcome)

    async def arun(
        self, opened: WorkerRequest, body: bytes, act: Callable[[ActionCall], Awaitable[object]]
    ) -> Response:
        """`run` in an event loop. A caller that is cancelled, as by a lost connection, does not interrupt the action."""
        running = await shielded(to_thread(self._engine.worker.claim, opened, body))
        call = ActionCall(running, opened, body, ActionResponse(running))
        return _answer(running, await shielded(self._act_and_end(call, act)))

    async def _act_and_end(self, call: ActionCall, act: Callable[[ActionCall], Awaitable[object]]) -> Outcome:
        from backjob.worker.task_exits import contain_tasks  # noqa: PLC0415 - it imports asyncio, which WSGI does not need

        error: BaseException | None = None
        try:
            contain_tasks()
            with call.running.active():
                await act(call)
        except BaseException as raised:
            error = raised
        outcome = call.response.outcome(error, self._engine.clock.now())
        await to_thread(self._engine.worker.end, call.running, outcome)
        raise_if_cancelled(error)
        return outcome

    def respond(self, arrival: Arrival, rest: str) -> StatusResponse:
        """Return the response to a request for a status route. ``rest`` is its path after ``status_prefix``, decoded."""
        mount = arrival.mount + self.status_prefix
        with served(arrival):
            return self._endpoints.respond(visit(self._engine, arrival.request, arrival, rest, mount))

    async def arespond(self, arrival: Arrival, rest: str) -> StatusResponse:
        """`respond` in an event loop."""
        return await to_thread(self.respond, arrival, rest)

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
    """Return the response to a request whose route left by a `JobExit`, as ``fail()`` does; None for any other error.

    In an action it also notes how the job ends, for frameworks that let no `JobExit` out of a route.
    """
    job_exit = left_by(error)
    return None if job_exit is None else Response(job_exit.status, "", no_store(), str(job_exit).encode())


async def body_of(response: StatusResponse) -> AsyncGenerator[bytes, None]:
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


def _answer(running: Running, outcome: Outcome) -> Response:
    """Return the response to the monitor, or raise the action's error if the server must see that."""
    if (error := error_to_raise(running, outcome)) is not None:
        raise error
    status = status_of(outcome)
    return Response(status, status_line(status, outcome.reason).partition(" ")[2], running.headers)
