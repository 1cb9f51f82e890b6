"""Forged, late, replayed and rotated worker requests, sent through the middleware."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, unquote_to_bytes

import pytest
from attrs import define, evolve, field

from backjob import BackJob
from backjob.jobs import engine_of
from backjob.lifecycle import REFUSAL_HEADER
from backjob.model import Request, Status
from backjob.process import PerProcess
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.testing import FakeClock
from backjob.wsgi import BackJobMiddleware
from tests.unit import gateways
from tests.unit.core import KEY, FakeTransport, FaultyStore, ManualMonitor

OLD = "the-old-one-q8Zr2Lw5Vb0Xn7Kt3Ms9Jd4Hg6"
OWN = ("backjob-content-digest", "backjob-signature-input", "backjob-signature")

WHOLE_SECOND = datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC)

Carrier = Literal["query", "header"]


@define
class Application:
    """An application that records the requests that reach it, and the calls of its store."""

    signer: MessageSigner
    clock: FakeClock = field(factory=lambda: FakeClock(WHOLE_SECOND))
    seen: list[tuple[str, str, bool]] = field(factory=list)
    transport: FakeTransport = field(factory=FakeTransport)
    store: FaultyStore = field(init=False)
    jobs: BackJob = field(init=False)
    _middleware: BackJobMiddleware = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.store = FaultyStore(MemoryStore(clock=self.clock))
        store: Any = self.store  # it forwards through __getattr__, so a type checker sees no methods
        self.jobs = BackJob(store, self.transport, self.signer, clock=self.clock)
        engine = engine_of(self.jobs)
        engine.monitors = PerProcess(lambda: ManualMonitor(engine.delivery_parts))
        self._middleware = BackJobMiddleware(self._page, self.jobs)

    def _page(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        self.seen.append((environ["PATH_INFO"], environ["QUERY_STRING"], self.jobs.is_background))
        start_response("200 OK", [("Content-Length", "0")])
        return [b""]

    def sent(self, **options: Any) -> Request:
        """Return the worker request of a new job. Clears the recorded calls of the store."""
        arguments: dict[str, Any] = {"method": "POST", "body": b"rows=all"} | options
        self.jobs.start("/reports/a%2Fb/work", {"id": 5}, as_current_user=False, **arguments)
        engine_of(self.jobs).monitor.step()
        request = self.transport.sent[-1].delivery.sign()
        self.store.calls.clear()
        return request

    def receive(self, request: Request, *, raw: bool = True) -> tuple[str, dict[str, str]]:
        """Return the response's status line and header fields. With ``raw=False`` the server passes only decoded paths."""
        line, fields = "", {}

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
            nonlocal line, fields
            line, fields = status, dict(headers)

        b"".join(self._middleware(environ_of(request, raw=raw), start_response))  # type: ignore[arg-type]
        return line, fields


def environ_of(request: Request, *, raw: bool) -> dict[str, Any]:
    path = unquote_to_bytes(request.path.encode("latin-1")).decode("latin-1")
    environ = gateways.environ_of(
        path, request.query, REQUEST_METHOD=request.method, CONTENT_LENGTH=str(len(request.body))
    )
    environ["wsgi.input"] = io.BytesIO(request.body)
    if raw:
        environ["REQUEST_URI"] = request.target
    return environ | {"HTTP_" + name.upper().replace("-", "_"): value for name, value in request.headers}


def application(carrier: Carrier = "query") -> Application:
    return Application(MessageSigner(KEY, carrier=carrier))


def with_one_bit_flipped(text: str) -> Iterator[str]:
    for place, character in enumerate(text):
        for bit in range(8):
            yield text[:place] + chr(ord(character) ^ 1 << bit) + text[place + 1 :]


def changes(request: Request) -> Iterator[Request]:
    """Yield the request with one bit changed: in the method, the target, a field of the signature, or the body."""
    for method in with_one_bit_flipped(request.method):
        yield evolve(request, method=method)
    for target in with_one_bit_flipped(request.target):
        yield evolve(request, target=target)
    for place, (name, value) in enumerate(request.headers):
        if name in ("Content-Digest", "Signature-Input", "Signature"):
            for changed in with_one_bit_flipped(value):
                yield evolve(
                    request, headers=(*request.headers[:place], (name, changed), *request.headers[place + 1 :])
                )
    for body in with_one_bit_flipped(request.body.decode("latin-1")):
        yield evolve(request, body=body.encode("latin-1"))


def has_signature_part(request: Request) -> bool:
    """Whether a request has any part of a signature, by an independent check."""
    names = {name for name, _ in parse_qsl(request.query, keep_blank_values=True, encoding="latin-1")}
    return bool(names.intersection(OWN)) or 'tag="backjob"' in (request.header("signature-input") or "")


@pytest.mark.parametrize("raw", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["raw path", "decoded path"])
@pytest.mark.parametrize("carrier", ["query", pytest.param("header", marks=pytest.mark.slow)])
def test_a_request_with_one_changed_bit_reaches_neither_the_action_nor_the_store(carrier: Carrier, raw: bool) -> None:
    app = application(carrier)
    request = app.sent()
    original = {**environ_of(request, raw=raw), "wsgi.input": None}
    refused = ordinary = 0
    for changed in changes(request):
        if {**environ_of(changed, raw=raw), "wsgi.input": None} == original and changed.body == request.body:
            continue  # a decoded path does not show whether it was "%2f" or "%2F"
        line, headers = app.receive(changed, raw=raw)
        if has_signature_part(changed):
            assert (line, headers.get(REFUSAL_HEADER)) in (
                ("403 Forbidden", "signature"),
                ("403 Forbidden", "unknown-key"),
            ), changed.target
            assert headers["Cache-Control"] == "no-store"
            assert not app.seen
            refused += 1
        else:
            # Without any part of a signature it is an ordinary request.
            assert (line, [background for *_, background in app.seen]) == ("200 OK", [False])
            assert REFUSAL_HEADER not in headers
            app.seen.clear()
            ordinary += 1
        assert not app.store.calls, changed
    assert refused > 1500
    # Eight bits for each character of the question mark, or of the tag.
    assert ordinary == (8 if carrier == "query" else 8 * len('tag="backjob"'))
    assert app.receive(request, raw=raw)[0].startswith("200")
    assert app.seen == [("/reports/a/b/work", "id=5", True)]


CHANGES = {
    "the method": lambda request: evolve(request, method="PUT"),
    "the path": lambda request: evolve(request, target=request.target.replace("/work", "/play")),
    "a decoded path": lambda request: evolve(request, target=request.target.replace("a%2Fb/", "a/b/", 1)),
    "the query": lambda request: evolve(request, target=request.target.replace("id=5", "id=6")),
    "an added parameter": lambda request: evolve(request, target=request.target.replace("id=5", "id=5&id=6")),
    "a removed parameter": lambda request: evolve(request, target=request.target.replace("id=5&", "")),
    "a parameter after the signature": lambda request: evolve(request, target=request.target + "&id=6"),
    "the signature twice": lambda request: evolve(
        request, target=request.target + "&backjob-content-digest=" + request.target.partition("digest=")[2]
    ),
    "no signature": lambda request: evolve(request, target=request.target.partition("&backjob-signature=")[0]),
    "another body": lambda request: evolve(request, body=b"rows=none"),
    "no body": lambda request: evolve(request, body=b""),
    "a longer body": lambda request: evolve(request, body=request.body + b"\n"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_request_is_refused(change: Any) -> None:
    app = application()
    changed = change(app.sent())
    assert app.receive(changed)[0] == "403 Forbidden"
    assert not app.store.calls
    assert not app.seen


@pytest.mark.parametrize(
    "part",
    ["job id", "run", "delivery", "created", "expires", "a body and its digest", "an earlier expiry", "another key id"],
)
@pytest.mark.parametrize("carrier", ["query", "header"])
def test_a_rewritten_grant_is_refused(carrier: Carrier, part: str) -> None:
    app = application(carrier)
    request, other = app.sent(), app.sent(body=b"rows=none")
    app.store.calls.clear()
    one, another = (sent.delivery.job_id for sent in app.transport.sent)
    now = int(app.clock.now().timestamp())
    old, new, body = {
        "job id": (one, another, request.body),
        "run": (f"{one}.1.1", f"{one}.2.1", request.body),
        "delivery": (f"{one}.1.1", f"{one}.1.2", request.body),
        "created": (f"created={now};", f"created={now - 1};", request.body),
        "expires": (f"expires={now + 600};", f"expires={now + 60_000};", request.body),
        "an earlier expiry": (f"expires={now + 600};", f"expires={now + 599};", request.body),
        "another key id": ("keyid", "keyID", request.body),
        "a body and its digest": (digest_of(request), digest_of(other), other.body),
    }[part]
    forged = rewritten(request, old, new, body)
    assert forged != request
    line, _ = app.receive(forged)
    assert line == "403 Forbidden"
    assert not app.store.calls
    assert not app.seen
    assert app.receive(request)[0].startswith("200")


def digest_of(request: Request) -> str:
    found = request.header("content-digest")
    return found or dict(parse_qsl(request.query))["backjob-content-digest"]


def rewritten(request: Request, old: str, new: str, body: bytes) -> Request:
    """Replace a text in all parts of the signature, encoded as the signer does."""
    target = request.target.replace(quote(old, safe=""), quote(new, safe=""))
    fields = tuple((name, value.replace(old, new)) for name, value in request.headers)
    return Request(request.method, target, fields, body)


# --- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("remaining", "line"),
    [(timedelta(microseconds=1), "200 OK"), (timedelta(), "403 Forbidden"), (timedelta(seconds=-1), "403 Forbidden")],
    ids=["1 µs before", "exactly at deliver_by", "1 s after"],
)
def test_a_worker_request_expires_exactly_at_deliver_by(remaining: timedelta, line: str) -> None:
    app = application()
    request = app.sent()
    job_id = app.transport.sent[0].delivery.job_id
    app.clock.advance(15)
    engine_of(app.jobs).monitor.step()  # renews the lease, and writes the deadline with it
    job = app.store.store.get(job_id)
    assert job is not None
    assert job.deliver_by is not None
    assert job.deliver_by == app.clock.now() + timedelta(seconds=585)
    app.store.calls.clear()
    app.clock.advance((job.deliver_by - remaining - app.clock.now()).total_seconds())
    assert app.receive(request)[0] == line
    if line == "200 OK":
        assert app.seen == [("/reports/a/b/work", "id=5", True)]
    else:
        assert not app.seen
        assert not app.store.calls


@pytest.mark.parametrize(("behind", "line"), [(5.0, "200 OK"), (5.000001, "403 Forbidden")])
def test_the_verifying_hosts_clock_may_be_five_seconds_behind(behind: float, line: str) -> None:
    app = application()
    request = app.sent()
    app.clock.jump(-behind)
    assert app.receive(request)[0] == line
    assert bool(app.seen) is (line == "200 OK")


def test_the_request_of_a_delayed_job_is_valid_until_its_deliver_by() -> None:
    app = application()
    app.jobs.start("/work", as_current_user=False, delay=3600)
    engine_of(app.jobs).monitor.step()
    assert not app.transport.sent
    app.clock.advance(3600)
    engine_of(app.jobs).monitor.step()
    request = app.transport.sent[0].delivery.sign()
    app.clock.advance(599)
    app.store.calls.clear()
    assert app.receive(request)[0] == "200 OK"


# --- rotation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("carrier", ["query", "header"])
def test_both_keys_are_accepted_until_the_old_one_is_dropped(carrier: Carrier) -> None:
    def answers(keys: MessageSigner, signing: MessageSigner) -> tuple[str, str | None, bool]:
        app = Application(keys)
        job_id = app.jobs.start("/work", as_current_user=False)
        engine_of(app.jobs).monitor.step()
        sent = app.transport.sent[0].delivery.sign()
        grant = keys.verify(sent, app.clock.now()).grant
        app.store.calls.clear()
        line, headers = app.receive(signing.sign(Request("GET", "/work"), grant))
        assert grant.job_id == job_id
        assert bool(app.store.calls) is bool(app.seen)
        return line, headers.get(REFUSAL_HEADER), bool(app.seen)

    old = MessageSigner(OLD, carrier=carrier)
    new = MessageSigner(KEY, carrier=carrier)
    ran, refused = ("200 OK", None, True), ("403 Forbidden", "unknown-key", False)
    for keys in (
        MessageSigner(OLD, fallbacks=[KEY], carrier=carrier),
        MessageSigner(KEY, fallbacks=[OLD], carrier=carrier),
    ):
        assert answers(keys, old) == ran
        assert answers(keys, new) == ran
    assert answers(new, old) == refused
    assert answers(old, new) == refused


# --- replay ---------------------------------------------------------------------------------------------------------


def test_a_replayed_request_gets_409_and_changes_nothing() -> None:
    app = application()
    request = app.sent()
    assert app.receive(request)[0] == "200 OK"
    job_id = app.transport.sent[0].delivery.job_id
    after = app.store.store.get(job_id)
    for _ in range(3):
        line, headers = app.receive(request)
        assert (line, headers[REFUSAL_HEADER], headers["Cache-Control"]) == ("409 Conflict", "claimed", "no-store")
    assert len(app.seen) == 1
    assert after is not None
    assert app.store.store.get(job_id) == evolve(after, read_time=app.clock.now())
    assert after.status is Status.COMPLETED
