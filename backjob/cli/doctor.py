"""Will worker requests arrive? Asks the application, by the very way that jobs take, and says what stands in between.

What is sent is a request that claims to be a worker request and is signed by nobody: the middleware answers it with a
refusal of its own, which nothing else answers, and no action runs. Each check is a line, ``ok: …``, ``problem: … — what
to do`` or ``can't tell: …``. The exit code names the first problem: `EXIT_CODES` is the table.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from datetime import datetime, timedelta
from enum import IntEnum
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from attrs import field, frozen

from backjob.cli.console import harmless
from backjob.clock import SystemClock
from backjob.errors import NotSent, StoreError, TransportError
from backjob.http.targets import normalise
from backjob.jobs import BackJob
from backjob.lifecycle import CLAIM_REFUSED, REFUSAL_HEADER
from backjob.model import Grant, Headers, Request, Response
from backjob.protocols import Signer, Transport
from backjob.worker.claiming import CONCURRENCY_HEADER

__all__ = ["EXIT_CODES", "Finding", "Problem", "examine"]

_USER_AGENT: Final = ("User-Agent", "backjob-doctor")
# Each carrier of a signature takes one of these for its own; the other does not see it.
_CLAIM_IN_QUERY: Final = "backjob-signature=doctor"
_CLAIM_IN_HEADERS: Final[Headers] = (("Signature-Input", 'doctor=();tag="backjob"'), _USER_AGENT)
_OUTERMOST: Final = "make BackJobMiddleware the outermost: first in Django's MIDDLEWARE, around all else in WSGI"


class Problem(IntEnum):
    """What is wrong; the value is the exit code, and `EXIT_CODES` says what each means."""

    UNREACHABLE = 10
    TLS = 11
    HOST = 12
    REDIRECTED = 13
    METHOD = 14
    NO_MIDDLEWARE = 15
    ONE_AT_A_TIME = 16
    KEY = 17
    SIGNATURE = 18
    STORE = 19


EXIT_CODES: Final = """\
exit codes, of the first problem:
  0   none was found
  10  no connection, or no answer
  11  TLS: the certificate is not trusted, or one side speaks TLS and the other does not
  12  the Host is refused
  13  redirected: https is enforced, or a login page stands before the middleware
  14  a method is refused on the way (--method)
  15  the middleware is missing, or something stands before it
  16  one single-threaded worker serves the application
  17  the application has another key (--app, or BACKJOB_KEY)
  18  what is signed does not arrive as it was sent, or the hosts' clocks disagree (--app, or BACKJOB_KEY)
  19  the store can't be used (--app, --store)
"""
"""The table for ``--help``."""


@frozen
class Finding:
    """The result of one check: with a problem, or without one. ``certain`` False: it could not be told."""

    what: str
    problem: Problem | None = None
    remedy: str = ""
    certain: bool = True

    def __str__(self) -> str:
        word = "problem" if self.problem is not None else "ok" if self.certain else "can't tell"
        line = f"{word}: {self.what} — {self.remedy}" if self.remedy else f"{word}: {self.what}"
        return harmless(line).replace("\n", " ")


@frozen
class _Probe:
    """A request without a job, as the transport sees a delivery."""

    deadline: datetime
    _sign: Callable[[], Request] = field(repr=False)
    job_id: str = "doctor"
    attempt: int = 1

    def sign(self) -> Request:
        return self._sign()


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
    """Yield the findings one by one, in the order of the checks; those that need an earlier one to be well are left out.

    ``transport`` is one for ``url``, the base URL. ``path`` is a route to ask for, by GET; ``methods`` are further ones
    to try, which the middleware answers. With a ``signer``, the application's key is checked too, with ``jobs``
    their store. ``timeout`` (s) bounds each answer. Raises `InvalidRequest` for a path that is none.
    """
    path = normalise(path)
    ask = _Patient(transport, timeout)
    answer = ask(lambda: _claiming("GET", path))
    if isinstance(answer, TransportError):
        yield _no_answer(answer)
    elif answer.header(REFUSAL_HEADER) is None:
        yield Finding(f"{url} answers")
        yield _not_ours(answer)
    else:
        yield Finding(f"{url} answers")
        yield _check_page(ask(lambda: Request("GET", path, (_USER_AGENT,))), url, path)
        for method in methods:
            yield _check_method(method, ask(partial(_claiming, method, path)))
        yield Finding("the middleware is there, and sees requests before anything else does")
        if signer is not None:
            yield _check_key(ask(partial(_signed, signer, path)))
        yield _check_concurrency(answer)
    if jobs is not None:
        yield _check_store(jobs)


class _Patient:
    """Asks, and waits for the answer as long as ``timeout``."""

    def __init__(self, transport: Transport, timeout: float) -> None:
        self._transport = transport
        self._timeout = timeout

    def __call__(self, sign: Callable[[], Request]) -> Response | TransportError:
        deadline = SystemClock().now() + timedelta(seconds=self._timeout)
        future: Future[Response] = self._transport.send(_Probe(deadline, sign))
        try:
            return future.result(self._timeout)
        except FutureTimeout:
            future.cancel()
            return NotSent(f"timed out: no answer within {self._timeout:g} s")
        except TransportError as error:
            return error


def _claiming(method: str, path: str) -> Request:
    """Says that it is ours, and can't be: no key is needed for it, and none would make it valid."""
    joint = "&" if "?" in path else "?"
    return Request(method, f"{path}{joint}{_CLAIM_IN_QUERY}", _CLAIM_IN_HEADERS)


def _signed(signer: Signer, path: str) -> Request:
    """A worker request of a job that does not exist: verified, and then refused, where the key is the same."""
    now = int(SystemClock().now().timestamp())
    grant = Grant(f"doctor-{secrets.token_urlsafe(18)}", 1, now, now + 60)
    return signer.sign(Request("GET", path, (_USER_AGENT,)), grant)


def _line(answer: Response) -> str:
    return f"{answer.status} {answer.reason}".strip()


def _no_answer(error: TransportError) -> Finding:
    reason = error.reason
    if reason.startswith("TLS not trusted"):
        remedy = (
            "let SSL_CERT_FILE name your authority's certificate, give the transport a TLS context, "
            "or connect by plain http inside of the machine: connect_to=http://127.0.0.1:…"
        )
        return Finding(reason, Problem.TLS, remedy)
    if reason.startswith("TLS failed"):
        remedy = "does this port speak plain http? Keep the https base URL, and say connect_to=http://host:port"
        return Finding(reason, Problem.TLS, remedy)
    if isinstance(error, NotSent):
        if reason.startswith("timed out: no answer"):
            remedy = "is every worker busy, or stuck? Look at the server, and try again"
        else:
            remedy = "does the server run, and listen there? BASE_URL is its public URL, CONNECT_TO where it listens"
        return Finding(reason, Problem.UNREACHABLE, remedy)
    remedy = "does this port speak HTTP/1.1, and not https? A server may also have refused the connection"
    return Finding(reason, Problem.UNREACHABLE, remedy)


def _not_ours(answer: Response) -> Finding:
    """What the answer to a claim means that is not the middleware's."""
    line = _line(answer)
    if 300 <= answer.status < 400:
        return _redirected(f"{line} → {answer.header('location') or 'nowhere'}", answer.header("location") or "")
    if answer.status in (400, 421):
        if b"HTTPS port" in answer.body:
            return Finding(f"{line}: this port speaks https", Problem.TLS, "let the URL begin with https://")
        remedy = "allow the URL's host there (Django: ALLOWED_HOSTS), or take a base URL whose host is allowed"
        return Finding(f"{line}: most likely the Host is refused", Problem.HOST, remedy)
    if answer.status in (502, 503, 504):
        remedy = "does the application behind it run? connect_to can name its own address, past the proxy"
        return Finding(f"{line}: a proxy answers, the application does not", Problem.UNREACHABLE, remedy)
    if answer.status in (401, 403, 407):
        remedy = f"let the proxy pass this address, connect past it (connect_to), or {_OUTERMOST}"
        return Finding(f"{line}: something before the middleware wants credentials", Problem.NO_MIDDLEWARE, remedy)
    remedy = f"is this the application's base URL? {_OUTERMOST[0].upper()}{_OUTERMOST[1:]}"
    return Finding(f"{line}: answered, but not by the middleware", Problem.NO_MIDDLEWARE, remedy)


def _redirected(what: str, location: str) -> Finding:
    if location.startswith("https://"):
        remedy = (
            "https is enforced: give an https base URL (connect_to=http://host:port keeps the connection plain), and let "
            f"the application trust X-Forwarded-Proto (Django: SECURE_PROXY_SSL_HEADER); {_OUTERMOST}"
        )
    else:
        remedy = f"a login page or another host's name stands before the middleware: {_OUTERMOST}"
    return Finding(what, Problem.REDIRECTED, remedy)


def _check_page(answer: Response | TransportError, url: str, path: str) -> Finding:
    """What the application itself says to the URL's Host and scheme: jobs started outside of a request carry those."""
    if isinstance(answer, TransportError):
        return Finding(f"the page itself: {answer.reason}", certain=False)
    if answer.status in (400, 421):
        return _not_ours(answer)
    location = answer.header("location") or ""
    # A page may well redirect elsewhere; to itself by https means that plain requests, jobs too, are turned away.
    if 300 <= answer.status < 400 and _is_itself_by_https(location, url, path):
        return _redirected(f"{_line(answer)} → {location}", location)
    return Finding(f"Host and scheme are accepted: an ordinary request is answered {_line(answer)}")


def _is_itself_by_https(location: str, url: str, path: str) -> bool:
    try:
        to, base = urlsplit(location), urlsplit(url)
    except ValueError:
        return False
    asked = base.path.rstrip("/") + path.partition("?")[0]
    return (to.scheme, to.hostname, to.path) == ("https", base.hostname, asked)


def _check_method(method: str, answer: Response | TransportError) -> Finding:
    if isinstance(answer, TransportError):
        what = f"{method} is not answered: {answer.reason}"
        return Finding(what, Problem.METHOD, "the server or a proxy refuses this method; use GET or POST for the job")
    if answer.header(REFUSAL_HEADER) is not None:
        return Finding(f"{method} reaches the application")
    remedy = {
        400: "uvicorn's httptools refuses methods it does not know: run it with --http h11, or use GET or POST",
        405: "the server or a proxy does not allow it: allow it there, or use GET or POST",
        501: "the server does not know it: use another server, or GET or POST",
    }.get(answer.status, "something on the way answers this method itself: let it pass, or use GET or POST")
    return Finding(f"{method} is refused: {_line(answer)}", Problem.METHOD, remedy)


def _check_key(answer: Response | TransportError) -> Finding:
    if isinstance(answer, TransportError):
        return Finding(f"the signed request is not answered: {answer.reason}", certain=False)
    refusal = answer.header(REFUSAL_HEADER)
    said = answer.body[:300].decode("utf-8", "replace")
    if refusal == CLAIM_REFUSED:
        return Finding("the application has the same key, and a signed request arrives as it was sent")
    if refusal == "unknown-key":
        return Finding(said, Problem.KEY, "set the same KEY (or SECRET_KEY) for both, or add it to KEY_FALLBACKS")
    if refusal == "signature":
        remedy = "a proxy that rewrites the path or the query? A prefix it strips belongs into the base URL"
        return Finding(said, Problem.SIGNATURE, remedy)
    if refusal == "unavailable":
        return Finding(f"the application's store is away: {said}", Problem.STORE, "look at the application's log")
    if refusal is None:
        what = f"{_line(answer)}: the signature got lost on the way"
        return Finding(what, Problem.SIGNATURE, "does a proxy cut long queries, or parameters it does not know?")
    return Finding(f"{_line(answer)} ({refusal}) to a signed request", certain=False)


def _check_concurrency(answer: Response) -> Finding:
    said = answer.header(CONCURRENCY_HEADER)
    if said == "many":
        return Finding("by its own word the server takes several requests at once")
    if said == "one":
        remedy = (
            "a job starts only after the request that started it, and no page is served while it runs: give the server "
            "threads or workers (gunicorn --threads 4; waitress and Flask's server have them)"
        )
        return Finding("by its own word the server takes one request at a time", Problem.ONE_AT_A_TIME, remedy)
    return Finding("whether the server takes several requests at once: it does not say", certain=False)


def _check_store(jobs: BackJob) -> Finding:
    try:
        jobs.find(limit=1)
    except StoreError as error:
        return Finding(f"the store can't be used: {error}", Problem.STORE, "see STORE; has its place, and may be read?")
    return Finding("the store can be read")
