"""The doctor against real servers: without a problem, and with one problem each."""

from __future__ import annotations

import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
import trustme
import waitress.server
import waitress.wasyncore
import werkzeug.serving
from cachelib import SimpleCache

from backjob import BackJob, StoreUnusable
from backjob.cli import measuring
from backjob.cli.demo.server import demo
from backjob.cli.doctor import examine
from backjob.cli.findings import EXIT_CODES, Finding, Problem, check_places
from backjob.cli.measuring import Measured, Sender, measure
from backjob.clock import SystemClock
from backjob.jobs import engine_of
from backjob.model import Grant, Job, Request, Response
from backjob.signing import MessageSigner
from backjob.stores.cached import CachedStore
from backjob.stores.memory import MemoryStore
from backjob.testing import FakeClock
from backjob.testing.transports import Call, Peer, answer
from backjob.transports.sockets import SocketTransport
from backjob.worker.probing import PROCESS_HEADER, Holds
from backjob.worker.replies import Reply
from backjob.wsgi import BackJobMiddleware
from tests.unit.core import FakeTransport

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

pytestmark = pytest.mark.slow

TIMEOUT = 10.0  # s
POLL = 0.02  # s between a server's checks for a shutdown


def examined(url: str, connect_to: str | None = None, **options: Any) -> list[Finding]:
    with closing(SocketTransport(url, connect_to)) as transport:
        return list(examine(transport, url, **options))


def measured_at(url: str, jobs: BackJob) -> Measured | None:
    with closing(SocketTransport(url)) as transport:
        return measure(Sender(transport, jobs.signer, "/", (), TIMEOUT))


def problems(findings: Iterable[Finding]) -> list[Problem]:
    return [finding.problem for finding in findings if finding.problem is not None]


def only_problem(findings: list[Finding]) -> Finding:
    (finding,) = (finding for finding in findings if finding.problem is not None)
    line = str(finding)
    assert line.startswith("problem: ")
    assert " — " in line
    return finding


def always(response: bytes) -> Callable[[Call], bytes]:
    return lambda _: response


@pytest.fixture
def signer() -> MessageSigner:
    return MessageSigner(secrets.token_bytes(32))


@pytest.fixture
def jobs(signer: MessageSigner) -> Iterator[BackJob]:
    with BackJob(MemoryStore(), SocketTransport, signer) as jobs:
        yield jobs


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@contextmanager
def wsgiref_server(app: WSGIApplication) -> Iterator[str]:
    """The standard library's server, which handles one request at a time."""
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(POLL,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(TIMEOUT)


@contextmanager
def werkzeug_server(app: WSGIApplication, *, threaded: bool) -> Iterator[str]:
    class Silent(werkzeug.serving.WSGIRequestHandler):
        def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    server = werkzeug.serving.make_server("127.0.0.1", 0, app, threaded=threaded, request_handler=Silent)
    thread = threading.Thread(target=server.serve_forever, args=(POLL,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join(TIMEOUT)
        server.server_close()


@contextmanager
def waitress_server(app: WSGIApplication, threads: int = 2) -> Iterator[str]:
    sockets: dict[int, Any] = {}
    server: Any = waitress.server.create_server(app, sockets, host="127.0.0.1", port=0, threads=threads)
    stopping = threading.Event()

    def run() -> None:
        while not stopping.is_set():
            waitress.wasyncore.loop(timeout=POLL, map=sockets, count=1)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.effective_port}"
    finally:
        stopping.set()
        thread.join(TIMEOUT)
        server.task_dispatcher.shutdown()
        waitress.wasyncore.close_all(sockets)  # also connections whose end the loop has not noticed


# --- no problem -----------------------------------------------------------------------------------------------------


def test_a_correct_application_has_no_problem() -> None:
    with demo("127.0.0.1", 0) as running:
        findings = examined(running.url, methods=("CHICKEN", "POST"), signer=running.jobs.signer, jobs=running.jobs)
    assert problems(findings) == []
    assert all(str(finding).startswith("ok: ") for finding in findings)
    text = "\n".join(map(str, findings))
    for part in ("answers", "200 OK", "CHICKEN", "POST", "middleware", "same key", "requests at once", "store"):
        assert part in text


def test_an_examination_runs_no_action(jobs: BackJob) -> None:
    reached: list[str] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        reached.append(environ["REQUEST_METHOD"] + environ["PATH_INFO"])
        return hello(environ, start_response)

    with wsgiref_server(BackJobMiddleware(app, jobs)) as url:
        examined(url, path="/work?id=5", methods=("DELETE",), signer=jobs.signer)
    assert reached == ["GET/work"]


def test_an_application_with_signatures_in_header_fields_has_no_problem() -> None:
    signer = MessageSigner(secrets.token_bytes(32), carrier="header")
    with (
        BackJob(MemoryStore(), SocketTransport, signer) as jobs,
        werkzeug_server(BackJobMiddleware(hello, jobs), threaded=True) as url,
    ):
        assert problems(examined(url, signer=signer)) == []


# --- the connection -------------------------------------------------------------------------------------------------


def test_a_refused_connection_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    finding = only_problem(examined(f"http://127.0.0.1:{port}"))
    assert finding.problem is Problem.UNREACHABLE
    assert "refused" in finding.what
    assert "CONNECT_TO" in finding.remedy


def test_a_server_that_never_answers_is_unreachable_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        finding = only_problem(examined(url, timeout=0.2))
    assert finding.problem is Problem.UNREACHABLE
    assert "no answer within 0.2 s" in finding.what


def test_a_request_has_no_deadline_before_the_timeout_is_over() -> None:
    """A busy machine begins it late; then the transport would only say that it is past its deadline."""
    transport = FakeTransport()
    list(examine(transport, "http://shop.example", timeout=0.01))
    assert transport.sent[0].delivery.deadline > SystemClock().now()


def test_a_proxy_without_its_application_is_unreachable() -> None:
    with Peer(always(answer(502, reason="Bad Gateway"))) as peer:
        finding = only_problem(examined(peer.base_url))
    assert finding.problem is Problem.UNREACHABLE
    assert "502 Bad Gateway" in finding.what


def tls_server(*names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(*names).configure_cert(context)
    return context


def test_an_untrusted_certificate_is_a_tls_problem() -> None:
    with Peer(tls=tls_server("localhost")) as peer:
        finding = only_problem(examined(f"https://localhost:{peer.port}"))
        assert peer.arrivals.empty()
    assert finding.problem is Problem.TLS
    assert "not trusted" in finding.what
    assert "SSL_CERT_FILE" in finding.remedy


def test_https_to_a_plain_port_is_a_tls_problem() -> None:
    with Peer() as peer:
        assert only_problem(examined(f"https://127.0.0.1:{peer.port}")).problem is Problem.TLS


@pytest.mark.parametrize("explains", [True, False])
def test_plain_http_to_a_tls_port_is_recognised(explains: bool) -> None:
    if explains:
        body = b"The plain HTTP request was sent to HTTPS port"
        with Peer(always(answer(400, body, "Bad Request"))) as peer:
            assert only_problem(examined(peer.base_url)).problem is Problem.TLS
    else:
        with Peer(tls=tls_server("127.0.0.1")) as peer:
            finding = only_problem(examined(peer.base_url))
        assert finding.problem is Problem.UNREACHABLE
        assert "https" in finding.remedy


# --- answers that do not come from the middleware -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "problem", "remedy"),
    [
        (answer(400, b"<h1>Bad Request (400)</h1>", "Bad Request"), Problem.HOST, "ALLOWED_HOSTS"),
        (answer(421, reason="Misdirected Request"), Problem.HOST, "ALLOWED_HOSTS"),
        (
            answer(302, reason="Found", headers=(("Location", "/login?next=/"),)),
            Problem.REDIRECTED,
            "first in Django's MIDDLEWARE",
        ),
        (
            answer(301, reason="Moved", headers=(("Location", "https://127.0.0.1/"),)),
            Problem.REDIRECTED,
            "SECURE_PROXY_SSL_HEADER",
        ),
        (answer(404, reason="Not Found"), Problem.NO_MIDDLEWARE, "outermost"),
        (answer(200, b"hello"), Problem.NO_MIDDLEWARE, "outermost"),
        (answer(401, reason="Unauthorized"), Problem.NO_MIDDLEWARE, "connect_to"),
        (answer(403, reason="Forbidden"), Problem.NO_MIDDLEWARE, "connect_to"),
    ],
)
def test_an_answer_from_something_before_the_middleware_is_explained(
    response: bytes, problem: Problem, remedy: str
) -> None:
    with Peer(always(response)) as peer:
        findings = examined(peer.base_url, methods=("DELETE",))
        calls = [peer.next_call()]
        assert peer.arrivals.empty()
    finding = only_problem(findings)
    assert finding.problem is problem
    assert remedy in finding.remedy
    # Without the middleware a further method could reach an action, so the doctor tries none.
    assert [call.method for call in calls] == ["GET"]


def answering(status: str, *headers: tuple[str, str]) -> WSGIApplication:
    """An application that gives every request this answer."""

    def answered(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, [("Content-Length", "0"), *headers])
        return [b""]

    return answered


def test_a_host_that_the_application_refuses_behind_the_middleware_is_a_problem(jobs: BackJob) -> None:
    app = answering("400 Bad Request")
    with werkzeug_server(BackJobMiddleware(app, jobs), threaded=True) as url:
        finding = only_problem(examined(url))
    assert finding.problem is Problem.HOST


def test_https_that_the_application_enforces_behind_the_middleware_is_a_problem(jobs: BackJob) -> None:
    app = answering("301 Moved", ("Location", "https://127.0.0.1/page"))
    with werkzeug_server(BackJobMiddleware(app, jobs), threaded=True) as url:
        finding = only_problem(examined(url, path="/page?x=1"))
    assert finding.problem is Problem.REDIRECTED


@pytest.mark.parametrize("location", ["/login", "https://login.example/", "https://127.0.0.1/other", "https://["])
def test_a_page_that_redirects_elsewhere_is_no_problem(jobs: BackJob, location: str) -> None:
    app = answering("302 Found", ("Location", location))
    with werkzeug_server(BackJobMiddleware(app, jobs), threaded=True) as url:
        assert problems(examined(url)) == []


# --- methods --------------------------------------------------------------------------------------------------------


REFUSAL = answer(403, b"refused", "Forbidden", (("backjob-refusal", "signature"), ("backjob-concurrency", "many")))


@pytest.mark.parametrize(
    ("response", "remedy"),
    [
        (answer(501, reason="Not Implemented"), "another server"),
        (answer(400, reason="Bad Request"), "httptools"),
        (answer(405, reason="Method Not Allowed"), "allow it there"),
        (answer(200), "let it pass"),
        (b"", "refuses this method"),
    ],
)
def test_a_refused_method_is_a_problem(response: bytes, remedy: str) -> None:
    def script(call: Call) -> bytes:
        if call.method != "GET":
            return response
        return REFUSAL if "backjob-signature" in call.target else answer()

    with Peer(script) as peer:
        findings = examined(peer.base_url, methods=("CHICKEN",))
    finding = only_problem(findings)
    assert finding.problem is Problem.METHOD
    assert "CHICKEN" in finding.what
    assert remedy in finding.remedy


# --- concurrency ----------------------------------------------------------------------------------------------------


def test_a_single_threaded_server_is_a_problem(jobs: BackJob) -> None:
    with wsgiref_server(BackJobMiddleware(hello, jobs)) as url:
        finding = only_problem(examined(url))
    assert finding.problem is Problem.ONE_AT_A_TIME
    assert "threads" in finding.remedy


@pytest.mark.parametrize("threaded", [True, False])
def test_werkzeug_declares_whether_it_has_threads(jobs: BackJob, threaded: bool) -> None:
    with werkzeug_server(BackJobMiddleware(hello, jobs), threaded=threaded) as url:
        found = problems(examined(url))
    assert found == ([] if threaded else [Problem.ONE_AT_A_TIME])


def test_waitress_declares_that_it_has_threads(jobs: BackJob) -> None:
    with waitress_server(BackJobMiddleware(hello, jobs)) as url:
        assert problems(examined(url)) == []


@pytest.mark.parametrize("threads", [3, *(pytest.param(threads, marks=pytest.mark.slow) for threads in (1, 4))])
def test_the_number_of_requests_that_a_server_handles_at_once_is_measured(jobs: BackJob, threads: int) -> None:
    with waitress_server(BackJobMiddleware(hello, jobs), threads) as url:
        measured = measured_at(url, jobs)
    assert measured is not None
    assert (measured.at_once, measured.is_more, measured.processes) == (threads, False, 1)


def test_answers_that_a_busy_machine_delays_make_no_server_look_smaller(
    jobs: BackJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = {2: [1, 2], 4: [3, 2, 4], 8: [5, 6, 4]}
    answer = measuring._Answer(0.0, Response(200, "OK", ((PROCESS_HEADER, "1 2"),), b""))
    monkeypatch.setattr(measuring, "_wave", lambda _, count: [answer] * together[count].pop(0))
    assert measured_at("http://127.0.0.1:9", jobs) == Measured(6, False, 1, 2)


def test_with_the_key_a_single_threaded_server_is_measured_to_be_one(jobs: BackJob) -> None:
    with wsgiref_server(BackJobMiddleware(hello, jobs)) as url:
        finding = only_problem(examined(url, signer=jobs.signer))
    assert finding.problem is Problem.ONE_AT_A_TIME
    assert finding.what == "the server handles one request at a time"
    assert "blocks all pages while it runs" in finding.remedy


def test_a_server_that_holds_no_answer_back_is_not_measured(jobs: BackJob) -> None:
    with Peer(lambda _: answer()) as peer:
        assert measured_at(peer.base_url, jobs) is None


@pytest.mark.parametrize(
    ("measured", "problem", "part"),
    [
        (Measured(1), Problem.ONE_AT_A_TIME, "--threads"),
        (Measured(8, processes=2, places=2), None, "at most 4 of them are jobs (MAX_RUNNING is 2 in each process)"),
        (Measured(8, processes=2, places=4), Problem.PLACES, "set MAX_RUNNING to 2"),
        (Measured(2, processes=1, places=100), Problem.PLACES, "set MAX_RUNNING to 1"),
        (Measured(8, processes=2), None, "8 requests at once, in 2 processes"),
        (Measured(4, processes=4, places=1), None, "while 4 jobs run, every page waits"),
        (Measured(64, is_more=True, processes=2, places=100), None, "64 or more requests at once"),
    ],
)
def test_what_was_measured_is_explained(measured: Measured, problem: Problem | None, part: str) -> None:
    finding = check_places(measured)
    assert finding.problem is problem
    assert part in str(finding)


@pytest.mark.parametrize(("at_once", "words"), [(1, "one request at a time"), (8, "8 requests at once")])
def test_a_server_that_leaves_its_jobs_to_workers_runs_none(at_once: int, words: str) -> None:
    finding = check_places(Measured(at_once, places=100), runs_jobs=False)
    assert finding.problem is None
    assert str(finding) == f"ok: the server handles {words}, and leaves all jobs to workers (DELIVER is empty)"


@pytest.mark.slow
def test_the_doctor_knows_that_the_application_leaves_its_jobs_to_workers(signer: MessageSigner) -> None:
    with (
        BackJob(MemoryStore(), SocketTransport, signer, deliver=[]) as jobs,
        wsgiref_server(BackJobMiddleware(hello, jobs)) as url,
    ):
        findings = examined(url, signer=signer, jobs=jobs)
    assert problems(findings) == []
    assert any("leaves all jobs to workers" in finding.what for finding in findings)
    assert any("set SEAL" in finding.remedy for finding in findings)


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        ("hold=0.5", 0.5), ("a=1&hold=1.0&b=2", 1.0), ("hold=1.1", 0), ("hold=9", 0), ("hold=0.0", 0), ("", 0),
        ("threshold=0.5", 0), ("hold=0.5e3", 0), ("hold=-0.5", 0),
    ],
)  # fmt: skip
def test_a_probe_is_held_back_for_at_most_a_second(query: str, seconds: float) -> None:
    holds = Holds(FakeClock().monotonic, lambda: 2)
    assert holds.of(Request("GET", f"/probe?{query}")) == seconds


def test_a_process_holds_back_at_most_64_probes_at_once() -> None:
    clock = FakeClock()
    holds, probe = Holds(clock.monotonic, lambda: 2), Request("GET", "/probe?hold=0.5")
    assert [holds.of(probe) for _ in range(65)] == [0.5] * 64 + [0]
    clock.advance(0.5)
    assert holds.of(probe) == 0.5


def test_only_a_probe_that_this_application_signed_is_held_back(jobs: BackJob) -> None:
    forged = MessageSigner(secrets.token_bytes(32))
    worker, now = engine_of(jobs).worker, int(engine_of(jobs).clock.now().timestamp())
    probe = Request("GET", "/probe?hold=0.5")
    for signer, delivery, held in ((jobs.signer, 0, 0.5), (forged, 0, 0.0)):
        with pytest.raises(Reply) as raised:
            worker.open(signer.sign(probe, Grant("doctor", 1, delivery, now, now + 30)))
        assert raised.value.hold == held
        assert (PROCESS_HEADER in dict(raised.value.headers)) is bool(held)
    assert worker.open(jobs.signer.sign(probe, Grant("job", 1, 1, now, now + 30))) is not None


def test_a_server_that_declares_nothing_is_no_problem() -> None:
    refusal = answer(403, b"refused", "Forbidden", (("backjob-refusal", "signature"),))
    with Peer(lambda call: refusal if "backjob-signature" in call.target else answer()) as peer:
        findings = examined(peer.base_url)
    assert problems(findings) == []
    assert str(findings[-1]).startswith("can't tell: ")


# --- key and store --------------------------------------------------------------------------------------------------


def test_another_key_is_a_problem(jobs: BackJob) -> None:
    with werkzeug_server(BackJobMiddleware(hello, jobs), threaded=True) as url:
        finding = only_problem(examined(url, signer=MessageSigner(secrets.token_bytes(32))))
    assert finding.problem is Problem.KEY
    assert "KEY" in finding.remedy


def test_a_path_rewritten_on_the_way_is_a_problem(jobs: BackJob) -> None:
    app = BackJobMiddleware(hello, jobs)

    def stripping(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        for name in ("PATH_INFO", "REQUEST_URI", "RAW_URI"):
            environ[name] = environ[name].removeprefix("/prefix")
        return app(environ, start_response)

    with werkzeug_server(stripping, threaded=True) as url:
        finding = only_problem(examined(url, path="/prefix/work", signer=jobs.signer))
        assert problems(examined(f"{url}/prefix", path="/work", signer=jobs.signer)) == []
    assert finding.problem is Problem.SIGNATURE
    assert "base URL" in finding.remedy


def test_a_query_cut_on_the_way_is_a_problem(signer: MessageSigner) -> None:
    with Peer(lambda call: REFUSAL if call.target.endswith("=doctor") else answer(200)) as peer:
        finding = only_problem(examined(peer.base_url, signer=signer))
    assert finding.problem is Problem.SIGNATURE


def test_an_unreadable_store_is_a_problem() -> None:
    class Broken(MemoryStore):
        def find(self, query: object) -> list[Job]:
            raise StoreUnusable("no table\n\x1b[2J")

    with BackJob(Broken(), SocketTransport, MessageSigner(secrets.token_bytes(32))) as jobs, Peer() as peer:
        findings = examined(peer.base_url, jobs=jobs)
    assert problems(findings) == [Problem.NO_MIDDLEWARE, Problem.STORE]
    assert str(findings[-1]).isprintable()


@pytest.mark.parametrize(
    ("policy", "verdict"),
    [("noeviction", "ok"), ("volatile-lru", "ok"), ("allkeys-lru", "problem"), ("", "can't tell")],
)
def test_a_redis_that_may_evict_jobs_is_a_problem(policy: str, verdict: str) -> None:
    class OnRedis(MemoryStore):
        def eviction_policy(self) -> str:
            return policy

    with BackJob(OnRedis(), SocketTransport, MessageSigner(secrets.token_bytes(32))) as jobs, Peer() as peer:
        finding = examined(peer.base_url, jobs=jobs)[-1]
    assert finding.verdict == verdict
    assert policy in finding.what
    assert finding.problem == (Problem.STORE if verdict == "problem" else None)


def test_the_eviction_policy_of_a_store_behind_a_cache_is_checked() -> None:
    class OnRedis(MemoryStore):
        def eviction_policy(self) -> str:
            return "allkeys-lru"

    store = CachedStore(OnRedis(), SimpleCache())
    with BackJob(store, SocketTransport, MessageSigner(secrets.token_bytes(32))) as jobs, Peer() as peer:
        assert problems(examined(peer.base_url, jobs=jobs)) == [Problem.NO_MIDDLEWARE, Problem.STORE]


def test_the_table_of_exit_codes_has_every_problem() -> None:
    lines = EXIT_CODES.splitlines()
    for problem in Problem:
        assert any(line.split()[:1] == [str(int(problem))] for line in lines), problem
