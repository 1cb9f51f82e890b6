"""The WSGI middleware: it restores and runs worker requests, and passes other requests on."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pytest
from attrs import define, field

from backjob.delivery.addresses import Addresses
from backjob.errors import JobFailed
from backjob.lifecycle import REFUSAL_HEADER
from backjob.model import Caller, Request, Status
from backjob.process import PerProcess
from backjob.status.streaming.broadcast import Broadcast
from backjob.transports.sockets import SocketTransport
from backjob.wsgi import BackJobMiddleware
from tests.unit.core import COOKIE, Bench, FakeTransport, Here, Sent, bench, served
from tests.unit.gateways import environ_of


@pytest.fixture
def world() -> Bench:
    return bench()


@define
class Server:
    """A minimal WSGI server, with PEP 3333's rules for start_response."""

    line: str = ""
    headers: dict[str, str] = field(factory=dict)
    written: list[bytes] = field(factory=list)
    sent: bool = False

    def start_response(self, line: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], Any]:
        if exc_info is not None and self.sent:
            raise exc_info[1].with_traceback(exc_info[2])
        assert exc_info is not None or not self.line, "start_response twice"
        self.line, self.headers = line, dict(headers)
        return self.write

    def write(self, chunk: bytes) -> None:
        self.sent = True
        self.written.append(chunk)

    def serve(self, app: Any, environ: dict[str, Any]) -> bytes:
        body = app(environ, self.start_response)
        try:
            for chunk in body:
                assert self.line
                self.write(chunk)
        finally:
            if hasattr(body, "close"):
                body.close()
        return b"".join(self.written)


def arrival(world: Bench, sent: Sent | None = None, **extra: Any) -> dict[str, Any]:
    """Return the environ of the last worker request that was sent."""
    request = (sent or world.transport.sent[-1]).delivery.sign()
    headers = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in request.headers}
    headers.pop("HTTP_CONTENT_TYPE", None)
    return environ_of(
        request.path,
        request.query,
        **{
            "REQUEST_METHOD": request.method,
            "REQUEST_URI": request.target,
            "CONTENT_LENGTH": str(len(request.body)),
            "wsgi.input": io.BytesIO(request.body),
            **headers,
            **extra,
        },
    )


def run(world: Bench, action: Any, **extra: Any) -> tuple[Server, Any]:
    """Start, send, receive and run one job. Return the server and the job."""
    if not world.jobs.find(status=Status.STARTED):
        world.start()
    world.step()
    job_id = world.transport.sent[-1].delivery.job_id
    server = Server()
    assert server.serve(BackJobMiddleware(action, world.jobs), arrival(world, **extra)) == b""
    return server, world.job(job_id)


def ok(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


# --- worker requests ------------------------------------------------------------------------------------------------


def test_the_action_gets_the_started_request_as_if_its_caller_had_sent_it(world: Bench) -> None:
    seen: dict[str, Any] = {}

    def action(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        seen.update(environ, body=environ["wsgi.input"].read(), background=world.jobs.is_background)
        return ok(environ, start_response)

    here = Here(
        Request("GET", "/", (("Cookie", COOKIE), ("User-Agent", "Browser/1"))),
        Caller("https", "shop.example", "192.0.2.7", (("X-Forwarded-For", "192.0.2.9"),)),
    )
    with served(here):
        world.start("/work", query={"a": 1}, method="POST", body=b"body", as_current_user=True)
    run(world, action, HTTP_X_FORWARDED_PROTO="http", HTTP_FORWARDED="for=evil")
    assert (seen["QUERY_STRING"], seen["REQUEST_URI"], seen["body"]) == ("a=1", "/work?a=1", b"body")
    assert (seen["wsgi.url_scheme"], seen["HTTP_HOST"], seen["REMOTE_ADDR"]) == ("https", "shop.example", "192.0.2.7")
    assert (seen["HTTP_COOKIE"], seen["HTTP_USER_AGENT"]) == (COOKIE, "Browser/1")
    assert seen["HTTP_X_FORWARDED_FOR"] == "192.0.2.9"
    assert not {"HTTP_X_FORWARDED_PROTO", "HTTP_FORWARDED"} & set(seen)
    assert seen["background"]
    assert seen["backjob.job"] == world.jobs.find()[0].id
    assert "backjob-signature" not in str(seen)
    assert not world.jobs.is_background


@pytest.mark.parametrize("uri", [{}, {"REQUEST_URI": None, "RAW_URI": True}, {"REQUEST_URI": None}])
def test_a_worker_request_is_recognised_with_and_without_a_raw_target(world: Bench, uri: dict[str, Any]) -> None:
    world.start("/a%2Fb", query={"x": 1})
    world.step()
    environ = arrival(world)
    target = environ.pop("REQUEST_URI")
    environ["PATH_INFO"] = "/a/b"
    if not uri:
        environ["REQUEST_URI"] = "http://127.0.0.1:8000" + target
    elif "RAW_URI" in uri:
        environ["RAW_URI"] = target
    assert Server().serve(BackJobMiddleware(ok, world.jobs), environ) == b""
    assert world.jobs.find()[0].status is Status.COMPLETED


def test_streamed_text_becomes_output_but_a_page_does_not(world: Bench) -> None:
    def streamed(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain; charset=latin-1")])
        write(b"\xe4")
        print("printed")
        yield b"bc"

    _, job = run(world, streamed)
    assert world.jobs.output(job.id).text == "äprinted\nbc"
    other = bench()
    _, job = run(other, ok)
    assert other.jobs.output(job.id).text == ""


def test_a_character_split_between_chunks_is_decoded(world: Bench) -> None:
    def streamed(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield "ä€".encode()[:1]
        yield "ä€".encode()[1:3]
        yield "ä€".encode()[3:]

    _, job = run(world, streamed)
    assert world.jobs.output(job.id).text == "ä€"


def test_the_body_is_closed_before_the_end_is_written(world: Bench) -> None:
    seen: list[Status] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"x"])

        def close(self) -> None:
            seen.append(world.jobs.find()[0].status)
            world.jobs.finish("closed")

    def action(environ: dict[str, Any], start_response: Any) -> Body:
        start_response("200 OK", [])
        return Body()

    _, job = run(world, action)
    assert seen == [Status.IN_PROGRESS]
    assert (job.status, job.status_text) == (Status.COMPLETED, "closed")


@pytest.mark.parametrize("where", ["view", "body", "close"])
@pytest.mark.parametrize(
    "error", [ValueError("oops"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("odd")]
)
def test_an_error_ends_the_job_failed_and_only_an_exception_is_raised_again(
    world: Bench, where: str, error: BaseException
) -> None:
    class Body:
        def __iter__(self) -> Iterator[bytes]:
            if where == "body":
                raise error
            return iter([b""])

        def close(self) -> None:
            if where == "close":
                raise error

    def action(environ: dict[str, Any], start_response: Any) -> Body:
        if where == "view":
            raise error
        start_response("200 OK", [])
        return Body()

    if isinstance(error, Exception):
        with pytest.raises(type(error)):
            run(world, action)
    else:
        server, _ = run(world, action)
        assert server.line.startswith("500" if where == "view" else "200")
    state = world.jobs.find()[0]
    assert state.status is Status.FAILED
    assert state.status_text.startswith(type(error).__name__)


@pytest.mark.parametrize("where", ["view", "body"])
@pytest.mark.parametrize("grouped", [False, True])
def test_fail_ends_the_job_and_the_monitor_gets_a_response(world: Bench, where: str, grouped: bool) -> None:
    def leave() -> None:
        if grouped:
            raise BaseExceptionGroup("tasks", [JobFailed("why")])
        world.jobs.fail("why")

    def body() -> Iterator[bytes]:
        leave()
        yield b""

    def action(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if where == "view":
            leave()
        start_response("200 OK", [])
        return body()

    server, job = run(world, action)
    assert (job.status, job.status_text) == (Status.FAILED, "why")
    assert server.line.startswith(("200", "500"))


def test_an_action_without_a_response_fails(world: Bench) -> None:
    _, job = run(world, lambda environ, start_response: [])
    assert (job.status, job.status_text) == (Status.FAILED, "the action ended without a response")


def test_an_action_may_start_jobs_as_the_current_user(world: Bench) -> None:
    def action(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        world.jobs.start("/child")
        return ok(environ, start_response)

    with served():
        world.start(as_current_user=True)
    run(world, action)
    world.step()
    assert world.transport.sent[-1].delivery.sign().header("Cookie") == COOKIE


def test_a_refusal_names_its_reason_and_runs_no_action(world: Bench) -> None:
    def never(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        raise AssertionError

    world.start()
    world.step()
    environ = arrival(world)
    tampered = Server()
    tampered.serve(BackJobMiddleware(never, world.jobs), {**environ, "REQUEST_METHOD": "POST"})
    assert (tampered.line, tampered.headers[REFUSAL_HEADER]) == ("403 Forbidden", "signature")
    assert tampered.headers["Cache-Control"] == "no-store"
    Server().serve(BackJobMiddleware(ok, world.jobs), dict(environ))
    again = Server()
    again.serve(BackJobMiddleware(never, world.jobs), dict(environ))
    assert (again.line, again.headers[REFUSAL_HEADER]) == ("409 Conflict", "claimed")
    long = Server()
    long.serve(BackJobMiddleware(never, world.jobs), {**environ, "CONTENT_LENGTH": str(1 << 30)})
    assert long.line.startswith("413")


def test_the_parts_outside_recognise_a_probe_too() -> None:
    world = bench(transport=FakeTransport(in_process=False))
    world.start()
    world.step()
    environ = arrival(world)
    server = Server()
    server.serve(BackJobMiddleware(ok, world.jobs), environ)
    assert "backjob-proof" in server.headers
    assert environ["backjob.job"] == ""
    assert (environ["QUERY_STRING"], environ["REQUEST_URI"]) == ("", "/backjob/probe")


# --- ordinary requests ----------------------------------------------------------------------------------------------


def test_a_request_with_an_unparsable_target_reaches_the_application(world: Bench) -> None:
    server = Server()
    assert server.serve(BackJobMiddleware(ok, world.jobs), environ_of(REQUEST_URI="http://[::1/")) == b"ok"


def test_an_ordinary_response_is_passed_on_unchanged(world: Bench) -> None:
    body = [b"a", b"b"]

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("299 Odd", [("X-A", "1"), ("X-A", "2")])(b"written ")
        return body

    server = Server()
    environ = environ_of("/page", "a=1", HTTP_COOKIE=COOKIE)
    before = dict(environ)
    passed = BackJobMiddleware(app, world.jobs)(environ, server.start_response)
    assert passed is body
    assert environ == before
    assert (server.line, server.written) == ("299 Odd", [b"written "])


def test_the_servers_file_wrapper_is_passed_on(world: Bench) -> None:
    class FileWrapper:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __iter__(self) -> Iterator[bytes]:
            return iter(self.file)

    made: list[FileWrapper] = []

    def app(environ: dict[str, Any], start_response: Any) -> FileWrapper:
        start_response("200 OK", [])
        made.append(environ["wsgi.file_wrapper"](io.BytesIO(b"x")))
        return made[0]

    environ = environ_of() | {"wsgi.file_wrapper": FileWrapper}
    assert BackJobMiddleware(app, world.jobs)(environ, Server().start_response) is made[0]


def test_a_generator_body_may_start_jobs_and_is_closed(world: Bench) -> None:
    closed: list[bool] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            yield world.jobs.start("/work").encode()
            yield b"never reached"
        finally:
            closed.append(True)

    server = Server()
    body: Any = BackJobMiddleware(app, world.jobs)(environ_of(HTTP_COOKIE=COOKIE), server.start_response)
    assert world.jobs.exists(next(body).decode())
    body.close()
    assert closed == [True]
    world.step()
    assert world.transport.sent[0].delivery.sign().header("Cookie") == COOKIE
    assert world.engine.current_owner() is None


@pytest.mark.parametrize("has_started", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_fail_in_an_ordinary_request_is_a_500(world: Bench, has_started: bool, grouped: bool) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if has_started:
            start_response("200 OK", [])
        if grouped:
            raise BaseExceptionGroup("g", [JobFailed("no")])
        world.jobs.fail("no")

    server = Server()
    assert server.serve(BackJobMiddleware(app, world.jobs), environ_of()) == b"no"
    assert server.line == "500 Internal Server Error"
    assert server.headers["X-Content-Type-Options"] == "nosniff"


def test_fail_after_the_first_bytes_ends_the_response(world: Bench) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])(b"begun")
        world.jobs.fail("no")

    server = Server()
    assert server.serve(BackJobMiddleware(app, world.jobs), environ_of()) == b"begun"


@pytest.mark.parametrize("grouped", [False, True])
def test_fail_in_a_generator_body_ends_it_without_an_error(world: Bench, grouped: bool) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])

        def body() -> Iterator[bytes]:
            yield b"begun"
            if grouped:
                raise BaseExceptionGroup("g", [JobFailed("no")])
            world.jobs.fail("no")

        return body()

    assert Server().serve(BackJobMiddleware(app, world.jobs), environ_of()) == b"begun"


def test_a_background_only_route_gives_403_to_an_ordinary_request(world: Bench) -> None:
    @world.jobs.background_only
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return ok(environ, start_response)

    server = Server()
    server.serve(BackJobMiddleware(app, world.jobs), environ_of())
    assert server.line == "403 Forbidden"
    world.start()
    _, job = run(world, app)
    assert job.status is Status.COMPLETED


@pytest.mark.parametrize("where", ["view", "body"])
def test_an_error_of_the_application_is_raised_unchanged(world: Bench, where: str) -> None:
    def body() -> Iterator[bytes]:
        yield b""
        raise ZeroDivisionError

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if where == "view":
            raise ZeroDivisionError
        start_response("200 OK", [])
        return body()

    with pytest.raises(ZeroDivisionError):
        Server().serve(BackJobMiddleware(app, world.jobs), environ_of())
    assert world.engine.current_owner() is None


def test_the_owner_hook_sees_what_middleware_put_into_the_environ() -> None:
    world = bench(owner=lambda request: request.environ["beaker.session"].get("user"))
    found: list[str | None] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["beaker.session"] = {"user": "ann"}
        found.append(world.engine.current_owner())
        return ok(environ, start_response)

    Server().serve(BackJobMiddleware(app, world.jobs), environ_of())
    assert found == ["ann"]


# --- the application's own address ----------------------------------------------------------------------------------


def test_a_request_is_served_although_no_address_can_be_learnt(world: Bench) -> None:
    world.engine.addresses = Addresses(SocketTransport)
    assert Server().serve(BackJobMiddleware(ok, world.jobs), environ_of(SERVER_PORT="/run/app")) == b"ok"
    assert world.jobs.transport is None


# --- event streams --------------------------------------------------------------------------------------------------


def test_event_streams_are_served_only_with_a_number_of_streams() -> None:
    for streams, line in ((None, "404 Not Found"), (0, "404 Not Found"), (1, "200 OK")):
        world = bench(streams=streams)
        job_id = world.start()
        world.jobs.cancel(job_id)
        world.engine.broadcasts = PerProcess(partial(Broadcast, world.engine.stream_source, streams))
        server = Server()
        body = server.serve(BackJobMiddleware(ok, world.jobs), environ_of(f"{world.jobs.status_url(job_id)}/events"))
        assert server.line == line
        assert (b"event: end\n" in body) == (streams == 1) == ("Content-Length" not in server.headers)
        world.jobs.close()


def test_a_stream_that_the_server_closes_no_longer_counts() -> None:
    world = bench(streams=1)
    app = BackJobMiddleware(ok, world.jobs)
    body: Any = app(environ_of(f"{world.jobs.status_url(world.start())}/events"), Server().start_response)
    assert next(body) == b"retry: 2000\n\n"
    assert world.engine.broadcast.count == 1
    body.close()
    assert world.engine.broadcast.count == 0


# --- a job that runs as its owner -----------------------------------------------------------------------------------


@pytest.mark.parametrize("may", [True, False])
def test_an_adapters_hook_lets_the_action_run_as_its_owner_or_refuses_it(
    world: Bench, may: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_as_owner(job: Any, environ: dict[str, Any]) -> None:
        if not may:
            raise JobFailed("the owner has left")
        environ["REMOTE_USER"] = job.owner

    seen: list[str] = []

    def action(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        seen.append(environ["REMOTE_USER"])
        return ok(environ, start_response)

    monkeypatch.setattr(world.engine, "run_as_owner", run_as_owner)
    world.start(owner="ann", as_owner=True, as_current_user=False, retries=1)
    _, job = run(world, action)
    assert (job.status, seen) == ((Status.COMPLETED, ["ann"]) if may else (Status.FAILED, []))
    assert may or job.status_text == "the owner has left"
