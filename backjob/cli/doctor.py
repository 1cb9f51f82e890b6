"""Check that worker requests reach the application, and find out what stops them.

The doctor's requests take the same path as worker requests and resemble them, but have an invalid signature or name a
job that does not exist. The middleware refuses them with answers that only it gives, and no background action runs.
With the application's key it also sends a few dozen probes at once, which the middleware answers after half a second.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from datetime import timedelta
from functools import partial
from typing import Final, Protocol, runtime_checkable

from backjob.cli import findings
from backjob.cli.findings import Finding, Problem
from backjob.cli.measuring import Measured, Probe, Sender, measure
from backjob.clock import SystemClock
from backjob.errors import NotSent, StoreError, TransportError
from backjob.http.targets import normalise
from backjob.jobs import BackJob, Engine, engine_of
from backjob.jobs.own import OwnJobs
from backjob.lifecycle import REFUSAL_HEADER
from backjob.model import Grant, Headers, Request, Response
from backjob.protocols import Signer, Transport

_MANY: Final = 10_000
_MARGIN: Final = 60.0  # s
_USER_AGENT: Final = ("User-Agent", "backjob-doctor")
# A signature is either in the query or in header fields, and a signer ignores the other place, so send both.
_FAKE_IN_QUERY: Final = "backjob-signature=doctor"
_FAKE_IN_HEADERS: Final[Headers] = (("Signature-Input", 'doctor=();tag="backjob"'), _USER_AGENT)


@runtime_checkable
class _Evicting(Protocol):
    """A store on a server that may be configured to evict keys."""

    def eviction_policy(self) -> str: ...


def examine(
    transport: Transport,
    url: str,
    *,
    path: str = "/",
    methods: tuple[str, ...] = (),
    signer: Signer | None = None,
    jobs: BackJob | None = None,
    timeout: float = 10.0,
) -> Iterator[Finding]:
    """Yield the findings one by one; a check that depends on a failed one is skipped.

    ``transport`` sends to ``url``, the base URL. ``path`` is a route to request with GET; ``methods`` are further
    methods to try; the middleware refuses these requests itself. ``signer`` adds a check of the application's key,
    ``jobs`` a check of their store. ``timeout`` (s) bounds the wait for each answer. Raises `InvalidRequest` for an
    invalid path.
    """
    path = normalise(path)
    send = _Sender(transport, timeout)
    answer = send(lambda: _unsigned_request("GET", path))
    if isinstance(answer, TransportError):
        yield findings.no_answer(answer)
    elif answer.header(REFUSAL_HEADER) is None:
        yield Finding(f"{url} answers")
        yield findings.foreign_answer(answer)
    else:
        yield Finding(f"{url} answers")
        yield findings.check_page(send(lambda: Request("GET", path, (_USER_AGENT,))), url, path)
        for method in methods:
            yield findings.check_method(method, send(partial(_unsigned_request, method, path)))
        yield Finding("the middleware is installed, and nothing answers before it")
        measured: Measured | None = None
        if signer is not None:
            key = findings.check_key(send(partial(_signed_request, signer, path)))
            yield key
            if key.problem is None and key.certain:
                measured = measure(Sender(transport, signer, path, (_USER_AGENT,), timeout))
        if measured is None:
            yield findings.check_concurrency(answer)
        else:
            yield findings.check_places(measured, runs_jobs=jobs is None or _runs_jobs(engine_of(jobs)))
    if jobs is not None:
        if engine_of(jobs).lacks_logins:
            yield findings.NO_LOGINS
        yield from _check_store(jobs)


class _Sender:
    """Sends a request; returns the answer, or the error if there is none within ``timeout`` (s)."""

    def __init__(self, transport: Transport, timeout: float) -> None:
        self._transport = transport
        self._timeout = timeout

    def __call__(self, sign: Callable[[], Request]) -> Response | TransportError:
        # Later than the end of the wait, which alone decides what the error says.
        deadline = SystemClock().now() + timedelta(seconds=self._timeout + _MARGIN)
        future: Future[Response] = self._transport.send(Probe(deadline, sign))
        try:
            return future.result(self._timeout)
        except FutureTimeout:
            future.cancel()
            return NotSent(f"timed out: no answer within {self._timeout:g} s")
        except TransportError as error:
            return error


def _unsigned_request(method: str, path: str) -> Request:
    """Return a request that looks like a worker request, with a signature that no key could have made."""
    separator = "&" if "?" in path else "?"
    return Request(method, f"{path}{separator}{_FAKE_IN_QUERY}", _FAKE_IN_HEADERS)


def _signed_request(signer: Signer, path: str) -> Request:
    """Return a signed request for a job that does not exist: the middleware verifies the signature, then refuses the claim."""
    now = int(SystemClock().now().timestamp())
    grant = Grant(f"doctor-{secrets.token_urlsafe(18)}", 1, 1, now, now + 60)
    return signer.sign(Request("GET", path, (_USER_AGENT,)), grant)


def _runs_jobs(engine: Engine) -> bool:
    """Return whether the server gets jobs to run: an engine's workers may send them to it, even if it delivers none itself."""
    return engine.delivered_queues != frozenset() or bool(engine.options.engines)


def _check_store(jobs: BackJob) -> Iterator[Finding]:
    store = getattr(jobs.store, "store", jobs.store)  # the store behind a cache
    try:
        jobs.find(limit=1)
        yield Finding("the store can be read")
        yield from _check_old_labels(engine_of(jobs).own_jobs)
        if isinstance(store, _Evicting):
            yield findings.check_eviction(store.eviction_policy())
    except StoreError as error:
        yield Finding(
            f"the store is unusable: {error}",
            Problem.STORE,
            "check STORE: does it exist, and can this process read it?",
        )


def _check_old_labels(own: OwnJobs) -> Iterator[Finding]:
    """Say how many jobs still need a fallback key."""
    left = own.count_old(_MANY)
    if left:
        many = f"{_MANY} or more" if left >= _MANY else str(left)
        yield Finding(f"jobs that still need an older key: {many}; keep it among the fallbacks until none is left")
