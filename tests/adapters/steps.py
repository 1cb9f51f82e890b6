"""The order of the middleware's four steps (see `backjob.worker.claiming`), as one test body for all adapters.

Subclass `MiddlewareSteps` with a fixture ``adapter``: a callable that serves one request on an `Arena`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import pytest
from attrs import define, evolve, field
from typing_extensions import override

from backjob.http.worker_requests import hide_signature
from backjob.lifecycle import REFUSAL_HEADER
from backjob.model import Headers, Request, Status
from backjob.signing import MessageSigner
from tests.unit.core import KEY, Bench, bench

__all__ = ["BODY", "Adapter", "Arena", "Body", "Chunks", "MiddlewareSteps", "environ_of", "scope_of"]

BODY: Final = b"rows=5"
_MAX_BODY: Final = 100
_OPENED: Final = ["verify"]
_READ: Final = [*_OPENED, "read"]
_CLAIMED: Final = [*_READ, "change"]


@define
class Arena:
    """A process whose signer, store, input, action and response record their calls, in order, in ``events``.

    Its action responds with this status, and with ``retry_after`` as a header field if it is not None. ``outside`` is the
    environ or the scope of the last request, which the parts outside of the middleware still have afterwards.
    """

    world: Bench
    events: list[str] = field(factory=list)
    status: int = 200
    retry_after: str | None = None
    hides: bool = False
    outside: dict[str, Any] = field(factory=dict)

    def arrived(self, outside: dict[str, Any]) -> dict[str, Any]:
        """Note the environ or the scope of a request; with ``hides``, `HideSignature` is the outermost part."""
        self.outside = outside
        if self.hides:
            hide_signature(outside)
        return outside

    @property
    def headers(self) -> list[tuple[str, str]]:
        return [] if self.retry_after is None else [("Retry-After", self.retry_after)]

    def act(self, body: bytes) -> Chunks:
        """Run the action: check its body and return its response, whose closing is recorded."""
        self.events.append("run")
        assert body in (BODY, b"")
        return Chunks(self.events)


Adapter: TypeAlias = Callable[[Arena, Request], tuple[int, Headers]]
"""Serves a request and returns the response's status and headers; appends "respond" to the events once it begins."""


class Body(io.BytesIO):
    """A request's body that records when it is read."""

    def __init__(self, content: bytes, events: list[str]) -> None:
        super().__init__(content)
        self._events = events

    @override
    def read(self, size: int | None = -1, /) -> bytes:
        self._events.append("read")
        return super().read(size)


class Chunks:
    """A streamed response of one chunk that records when it is closed."""

    def __init__(self, events: list[str]) -> None:
        self._events = events
        self._chunks = iter([b"ok"])

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        self._events.append("close")


class _RecordingSigner:
    def __init__(self, signer: Any, events: list[str]) -> None:
        self._signer = signer
        self._events = events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._signer, name)

    def verify(self, *arguments: Any) -> Any:
        self._events.append("verify")
        return self._signer.verify(*arguments)


def environ_of(request: Request, events: list[str]) -> dict[str, Any]:
    """Return the WSGI environ of a request."""
    fields = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in request.headers}
    for name in ("CONTENT_LENGTH", "CONTENT_TYPE"):
        fields[name] = fields.pop(f"HTTP_{name}", "")
    return {
        "REQUEST_METHOD": request.method,
        "REQUEST_URI": request.target,
        "SCRIPT_NAME": "",
        "PATH_INFO": request.path,
        "QUERY_STRING": request.query,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "127.0.0.1:8000",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": Body(request.body, events),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **fields,
    }


def scope_of(request: Request) -> dict[str, Any]:
    """Return the ASGI scope of a request."""
    host = () if request.header("host") else ((b"host", b"127.0.0.1:8000"),)
    return {
        "type": "http",
        "method": request.method,
        "path": request.path,
        "raw_path": request.path.encode(),
        "query_string": request.query.encode(),
        "root_path": "",
        "scheme": "http",
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "headers": [*host, *((name.lower().encode(), value.encode()) for name, value in request.headers)],
    }


def _with_length(request: Request, length: str) -> Request:
    others = tuple((name, value) for name, value in request.headers if name.lower() != "content-length")
    return evolve(request, headers=(*others, ("Content-Length", length)))


def _job_id(arena: Arena) -> str:
    return arena.world.transport.sent[-1].delivery.job_id


class MiddlewareSteps:
    """Each step runs after the one before; a refused step runs none of the later ones."""

    @pytest.fixture
    def adapter(self) -> Adapter:
        """Override it."""
        raise NotImplementedError

    @pytest.fixture
    def arena(self) -> Arena:
        arena = Arena(bench(max_body=_MAX_BODY))
        worker: Any = arena.world.engine.worker
        worker._signer = _RecordingSigner(worker._signer, arena.events)
        return arena

    @pytest.fixture
    def request_(self, arena: Arena) -> Request:
        """A worker request; from here on, the arena records the store's calls."""
        arena.world.start("/work", method="POST", body=BODY, retries=1)
        arena.world.step()
        request = _with_length(arena.world.transport.sent[-1].delivery.sign(), str(len(BODY)))
        arena.world.store.calls = arena.events
        return request

    @staticmethod
    def _status(arena: Arena) -> Status:
        return arena.world.job(_job_id(arena)).status

    @staticmethod
    def _refusal(response: tuple[int, Headers]) -> tuple[int, str]:
        """Return the status and the reason of a refusal."""
        status, headers = response
        fields = {name.lower(): value for name, value in headers}
        assert fields["cache-control"] == "no-store"
        return status, fields[REFUSAL_HEADER]

    def test_the_end_is_written_after_the_response_is_closed_and_before_the_monitor_gets_its_own(
        self, adapter: Adapter, arena: Arena, request_: Request
    ) -> None:
        response, _ = adapter(arena, request_)
        assert arena.events == [*_CLAIMED, "run", "close", "change", "respond"]
        assert (response, self._status(arena)) == (200, Status.COMPLETED)

    def test_an_ordinary_request_reaches_the_application_without_any_step(
        self, adapter: Adapter, arena: Arena, request_: Request
    ) -> None:
        response, _ = adapter(arena, Request("GET", "/work"))
        assert response == 200
        assert "run" in arena.events
        assert not {"verify", "change"} & set(arena.events)
        assert self._status(arena) is Status.STARTED

    def test_a_forged_target_is_403_before_the_body_is_read(
        self, adapter: Adapter, arena: Arena, request_: Request
    ) -> None:
        forged = evolve(request_, target=request_.target.replace("/work", "/other"))
        assert self._refusal(adapter(arena, forged)) == (403, "signature")
        assert arena.events == [*_OPENED, "respond"]

    @pytest.mark.parametrize(
        ("length", "refusal"),
        [("many", (400, "length")), (str(_MAX_BODY + 1), (413, "too-large"))],
        ids=["not a number", "too long"],
    )
    def test_a_bad_length_is_refused_before_the_body_is_read(
        self, adapter: Adapter, arena: Arena, request_: Request, length: str, refusal: tuple[int, str]
    ) -> None:
        assert self._refusal(adapter(arena, _with_length(request_, length))) == refusal
        assert arena.events == [*_OPENED, "respond"]

    def test_the_signature_is_verified_before_the_length(
        self, adapter: Adapter, arena: Arena, request_: Request
    ) -> None:
        forged = evolve(request_, target=request_.target.replace("/work", "/other"))
        assert self._refusal(adapter(arena, _with_length(forged, "many"))) == (403, "signature")
        assert arena.events == [*_OPENED, "respond"]

    def test_another_body_is_403_before_the_claim(self, adapter: Adapter, arena: Arena, request_: Request) -> None:
        assert self._refusal(adapter(arena, evolve(request_, body=b"rows=6"))) == (403, "signature")
        assert arena.events == [*_READ, "respond"]
        assert self._status(arena) is Status.STARTED

    def test_a_process_whose_places_are_taken_is_busy_before_the_claim(
        self, adapter: Adapter, arena: Arena, request_: Request
    ) -> None:
        arena.world.engine.worker._max_running = lambda: 0
        assert self._refusal(adapter(arena, request_)) == (503, "busy")
        assert arena.events == [*_READ, "respond"]
        assert self._status(arena) is Status.STARTED

    @pytest.mark.parametrize("retry_after", ["120", "Sat, 17 May 2031 11:24:33 GMT", None, "soon"])
    def test_another_run_follows_when_the_response_says(
        self, adapter: Adapter, arena: Arena, request_: Request, retry_after: str | None
    ) -> None:
        arena.status, arena.retry_after = 503, retry_after
        adapter(arena, request_)
        job = arena.world.job(_job_id(arena))
        assert (job.status, job.run) == (Status.STARTED, 2)
        delay = (job.start_time - job.read_time).total_seconds()
        if retry_after is None or retry_after == "soon":
            assert 8 <= delay <= 12
        else:
            assert delay == pytest.approx(120, abs=1)
        assert not arena.world.engine.worker.is_busy

    def test_a_job_that_is_already_claimed_is_409_and_its_action_does_not_run_again(
        self, adapter: Adapter, arena: Arena, request_: Request
    ) -> None:
        adapter(arena, request_)
        arena.events.clear()
        assert self._refusal(adapter(arena, request_)) == (409, "claimed")
        assert arena.events == [*_CLAIMED, "respond"]

    def test_a_claim_that_the_store_cannot_write_is_503_and_the_action_does_not_run(
        self, adapter: Adapter, arena: Arena, request_: Request
    ) -> None:
        arena.world.store.down = {"change"}
        assert self._refusal(adapter(arena, request_)) == (503, "unavailable")
        assert arena.events == [*_CLAIMED, "get", "respond"]
        assert self._status(arena) is Status.STARTED

    @pytest.mark.parametrize("hides", [False, True], ids=["alone", "within HideSignature"])
    def test_the_parts_outside_see_the_job_and_no_signature(
        self, adapter: Adapter, arena: Arena, request_: Request, hides: bool
    ) -> None:
        arena.hides = hides
        forged = evolve(request_, target=request_.target.replace("/work", "/other"))
        assert adapter(arena, forged)[0] == 403
        assert "backjob.job" not in arena.outside
        assert _signed_values(arena.outside) == []
        for status in (200, 409):
            assert adapter(arena, request_)[0] == status
            assert arena.outside["backjob.job"] == _job_id(arena)
            assert _signed_values(arena.outside) == []

    def test_an_ordinary_request_with_parameters_like_a_signature_stays_as_it_is(
        self, adapter: Adapter, arena: Arena, request_: Request
    ) -> None:
        arena.hides = True
        worker: Any = arena.world.engine.worker
        worker._signer = MessageSigner(KEY, carrier="header")
        ordinary = Request("GET", "/work?a=1&backjob-signature=x")
        assert adapter(arena, ordinary)[0] == 200
        arrived = scope_of(ordinary) if "query_string" in arena.outside else environ_of(ordinary, [])
        assert "backjob.job" not in arena.outside
        assert {name: arena.outside[name] for name in arrived if "QUERY" in name.upper() or "URI" in name} == {
            name: value for name, value in arrived.items() if "QUERY" in name.upper() or "URI" in name
        }


def _signed_values(outside: dict[str, Any]) -> list[str]:
    """Return the names of the values that have a signature."""
    return [name for name, value in outside.items() if "signature" in str(value)]
