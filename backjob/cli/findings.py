"""The doctor's findings: what each answer to its requests means, and what to do about it. Pure functions."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final
from urllib.parse import urlsplit

from attrs import frozen

from backjob.cli.measuring import Measured
from backjob.errors import NotSent, TransportError
from backjob.lifecycle import CLAIM_REFUSED, REFUSAL_HEADER
from backjob.model import Response
from backjob.output import escaped
from backjob.worker.replies import CONCURRENCY_HEADER

_BLOCKED: Final = (
    "a job starts only after the request that started it, and blocks all pages while it runs: give the server threads or "
    "workers (gunicorn --threads 4; waitress and Flask's server have them)"
)
_ONE_THREAD: Final = "MAX_RUNNING can't keep a thread for pages: give the server threads (gunicorn --threads 4)"
_OUTERMOST: Final = "make BackJobMiddleware the outermost: first in Django's MIDDLEWARE, around everything else in WSGI"


class Problem(IntEnum):
    """A problem; its value is the exit code, explained in `EXIT_CODES`."""

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
    PLACES = 20


EXIT_CODES: Final = """\
exit codes, of the first problem:
  0   no problem found
  10  no connection, or no answer
  11  TLS: the certificate is not trusted, or only one side speaks TLS
  12  the Host is refused
  13  redirected: https is enforced, or a login page comes before the middleware
  14  a method is refused on the way (--method)
  15  the middleware is missing, or something answers before it
  16  the server handles one request at a time
  17  the application has another key (needs the application, or BACKJOB_KEY)
  18  signed requests are changed on the way, or the hosts' clocks disagree (needs the application, or BACKJOB_KEY)
  19  the store is unusable, or Redis may evict jobs (needs the application, or a store)
  20  jobs may occupy all threads of the server: MAX_RUNNING is too large (needs the application, or BACKJOB_KEY)
"""
"""The table of exit codes for ``--help``."""


@frozen
class Finding:
    """The result of one check. ``certain`` is False if the check was inconclusive."""

    what: str
    problem: Problem | None = None
    remedy: str = ""
    certain: bool = True

    @property
    def verdict(self) -> str:
        """``ok``, ``problem`` or ``can't tell``."""
        return "problem" if self.problem is not None else "ok" if self.certain else "can't tell"

    def __str__(self) -> str:
        line = f"{self.verdict}: {self.what} — {self.remedy}" if self.remedy else f"{self.verdict}: {self.what}"
        return escaped(line).replace("\n", " ")

    def as_dict(self) -> dict[str, Any]:
        """The finding, JSON-ready; ``code`` is 0 or the problem's exit code."""
        return {
            "verdict": self.verdict,
            "what": self.what,
            "remedy": self.remedy or None,
            "code": int(self.problem or 0),
        }


NO_LOGINS: Final = Finding(
    "DELIVER leaves queues to other processes, which have no logins of users: start() refuses jobs of these queues that run "
    "as the current user",
    remedy="set SEAL, or start them with as_owner=True or as_current_user=False",
)
"""The finding about an application with ``DELIVER`` and without ``SEAL``."""


def _status_line(answer: Response) -> str:
    return f"{answer.status} {answer.reason}".strip()


def no_answer(error: TransportError) -> Finding:
    """Explain why there was no answer."""
    reason = error.reason
    if reason.startswith("TLS not trusted"):
        remedy = (
            "set SSL_CERT_FILE to your authority's certificate, give the transport a TLS context, "
            "or connect over plain http within the machine: connect_to=http://127.0.0.1:…"
        )
        return Finding(reason, Problem.TLS, remedy)
    if reason.startswith("TLS failed"):
        remedy = "does this port speak plain http? Keep the https base URL, and set connect_to=http://host:port"
        return Finding(reason, Problem.TLS, remedy)
    if not isinstance(error, NotSent):
        remedy = "does this port speak HTTP/1.1, and not https? The server may also have refused the connection"
    elif reason.startswith("timed out: no answer"):
        remedy = "are all workers busy or stuck? Check the server, and try again"
    else:
        remedy = "is the server running and listening there? BASE_URL is its public URL, CONNECT_TO where it listens"
    return Finding(reason, Problem.UNREACHABLE, remedy)


def foreign_answer(answer: Response) -> Finding:
    """Explain an answer that did not come from the middleware."""
    line = _status_line(answer)
    if 300 <= answer.status < 400:
        return _redirected(f"{line} → {answer.header('location') or 'nowhere'}", answer.header("location") or "")
    if answer.status in (400, 421):
        if b"HTTPS port" in answer.body:
            return Finding(f"{line}: this port speaks https", Problem.TLS, "start the URL with https://")
        remedy = "allow the URL's host there (Django: ALLOWED_HOSTS), or use a base URL whose host is allowed"
        return Finding(f"{line}: most likely the Host is refused", Problem.HOST, remedy)
    if answer.status in (502, 503, 504):
        remedy = (
            "is the application behind it running? connect_to can bypass the proxy with the application's own address"
        )
        return Finding(f"{line}: a proxy answers, but not the application", Problem.UNREACHABLE, remedy)
    if answer.status in (401, 403, 407):
        remedy = f"let the proxy pass this path, bypass the proxy (connect_to), or {_OUTERMOST}"
        return Finding(f"{line}: something before the middleware asks for credentials", Problem.NO_MIDDLEWARE, remedy)
    remedy = f"is this the application's base URL? {_OUTERMOST[0].upper()}{_OUTERMOST[1:]}"
    return Finding(f"{line}: answered, but not by the middleware", Problem.NO_MIDDLEWARE, remedy)


def _redirected(what: str, location: str) -> Finding:
    if location.startswith("https://"):
        remedy = (
            "https is enforced: use an https base URL (connect_to=http://host:port keeps the connection plain), and let "
            f"the application trust X-Forwarded-Proto (Django: SECURE_PROXY_SSL_HEADER); {_OUTERMOST}"
        )
    else:
        remedy = f"a login page or a redirect to another host comes before the middleware: {_OUTERMOST}"
    return Finding(what, Problem.REDIRECTED, remedy)


def check_page(answer: Response | TransportError, url: str, path: str) -> Finding:
    """Check that the application accepts the URL's Host and scheme, which jobs started outside a request carry."""
    if isinstance(answer, TransportError):
        return Finding(f"no answer to an ordinary request: {answer.reason}", certain=False)
    if answer.status in (400, 421):
        return foreign_answer(answer)
    location = answer.header("location") or ""
    # A page may redirect elsewhere. If it redirects to itself by https, the application refuses plain requests, jobs too.
    if 300 <= answer.status < 400 and _is_itself_by_https(location, url, path):
        return _redirected(f"{_status_line(answer)} → {location}", location)
    return Finding(f"Host and scheme are accepted: an ordinary request gets {_status_line(answer)}")


def _is_itself_by_https(location: str, url: str, path: str) -> bool:
    try:
        to, base = urlsplit(location), urlsplit(url)
    except ValueError:
        return False
    requested = base.path.rstrip("/") + path.partition("?")[0]
    return (to.scheme, to.hostname, to.path) == ("https", base.hostname, requested)


def check_method(method: str, answer: Response | TransportError) -> Finding:
    """Check whether a method reaches the middleware."""
    if isinstance(answer, TransportError):
        what = f"no answer to {method}: {answer.reason}"
        return Finding(what, Problem.METHOD, "the server or a proxy refuses this method; use GET or POST for the job")
    if answer.header(REFUSAL_HEADER) is not None:
        return Finding(f"{method} reaches the application")
    remedy = {
        400: "uvicorn's httptools refuses unknown methods: run it with --http h11, or use GET or POST",
        405: "the server or a proxy does not allow it: allow it there, or use GET or POST",
        501: "the server does not implement it: use another server, or GET or POST",
    }.get(answer.status, "a server or proxy on the way answers this method itself: let it pass, or use GET or POST")
    return Finding(f"{method} is refused: {_status_line(answer)}", Problem.METHOD, remedy)


def check_key(answer: Response | TransportError) -> Finding:
    """Check the answer to a request that is signed for a job that does not exist."""
    if isinstance(answer, TransportError):
        return Finding(f"no answer to the signed request: {answer.reason}", certain=False)
    refusal = answer.header(REFUSAL_HEADER)
    reason = answer.body[:300].decode("utf-8", "replace")
    if refusal == CLAIM_REFUSED:
        return Finding("the application has the same key, and signed requests arrive unchanged")
    if refusal == "unknown-key":
        return Finding(reason, Problem.KEY, "set the same KEY (or SECRET_KEY) for both, or add it to KEY_FALLBACKS")
    if refusal == "signature":
        remedy = "does a proxy rewrite the path or the query? The base URL must include a prefix that it strips"
        return Finding(reason, Problem.SIGNATURE, remedy)
    if refusal == "unavailable":
        return Finding(f"the application can't reach its store: {reason}", Problem.STORE, "check the application's log")
    if refusal is None:
        what = f"{_status_line(answer)}: the signature was lost on the way"
        return Finding(what, Problem.SIGNATURE, "does a proxy cut long queries, or drop unknown parameters?")
    return Finding(f"{_status_line(answer)} ({refusal}) to a signed request", certain=False)


def check_concurrency(answer: Response) -> Finding:
    """Check whether the server handles several requests at once."""
    declared = answer.header(CONCURRENCY_HEADER)
    if declared == "many":
        return Finding("the server declares that it handles several requests at once")
    if declared == "one":
        return Finding("the server declares that it handles one request at a time", Problem.ONE_AT_A_TIME, _BLOCKED)
    return Finding("the server does not declare whether it handles several requests at once", certain=False)


def check_places(measured: Measured, *, runs_jobs: bool = True) -> Finding:
    """Check how many of the requests that the server handles at once may be jobs. Without ``runs_jobs``, workers run them all."""
    count, processes, places = measured.at_once, measured.processes, measured.places
    if measured.is_more:
        limit = "" if places is None else f"; each process runs at most {places} jobs at once (MAX_RUNNING)"
        return Finding(f"the server handles {count} or more requests at once{limit}")
    if not runs_jobs:
        many = "one request at a time" if count == 1 else f"{count} requests at once"
        return Finding(f"the server handles {many}, and leaves all jobs to workers (DELIVER is empty)")
    if count == 1:
        return Finding("the server handles one request at a time", Problem.ONE_AT_A_TIME, _BLOCKED)
    what = f"the server handles {count} requests at once, in {processes} {'process' if processes == 1 else 'processes'}"
    if count <= processes:
        return Finding(f"{what} with one thread each: while {count} jobs run, every page waits", remedy=_ONE_THREAD)
    if places is None:
        return Finding(what)
    if places * processes < count:
        return Finding(
            f"{what}; at most {places * processes} of them are jobs (MAX_RUNNING is {places} in each process)"
        )
    best = max(1, count // processes // 2)
    remedy = f"set MAX_RUNNING to {best}, or give each process more threads than MAX_RUNNING"
    return Finding(f"{what}, and all of them may be jobs: then every page waits", Problem.PLACES, remedy)


def check_eviction(policy: str) -> Finding:
    """Check the ``maxmemory-policy`` of a Redis server; "" if the server does not show it."""
    what = f"Redis has the maxmemory-policy {policy}"
    if policy == "noeviction":
        return Finding(f"{what}: Redis evicts no job")
    if policy.startswith("volatile"):
        return Finding(f"{what}: Redis evicts only keys that expire, and so no job")
    if not policy:
        return Finding("Redis does not show its maxmemory-policy; set noeviction", certain=False)
    return Finding(
        f"{what}: Redis may evict jobs that have not ended", Problem.STORE, "set maxmemory-policy noeviction"
    )
