"""Probes destinations, and decides which of them has proven to be this application and may get worker requests.

Single-threaded, like `backjob.delivery.deliveries`. A destination proves itself by responding to a signed probe, without
body and credentials, with a mark that only this application can make. The proof lasts until a connection fails, a response
lacks the mark, a request shows a new address, or nothing that was sent in the last 60 s got a marked response.
"""

from __future__ import annotations

import logging
import math
import re
import secrets
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from typing import Final, Literal, TypeAlias

from attrs import frozen

from backjob.delivery.addresses import Addresses, Destination
from backjob.delivery.attempts import Attempt, describe, failure
from backjob.delivery.parts import DeliveryParts
from backjob.delivery.pending import LastSent
from backjob.http.marks import MARK_LABEL, PROBE_ATTEMPT, PROBE_PATH, PROBE_RUN, marked_port, marks_end
from backjob.lifecycle import REFUSAL_HEADER, backoff, status_line
from backjob.model import Headers, Job, Request, Response

Waiting: TypeAlias = Literal["connection", "proof"]
"""The reason why a job waits: there is no connection, or what answers has not proven to be this application."""

_LASTS: Final = 60.0
_LIFETIME: Final = 600.0
"""Seconds until a probe that got no answer is sent anew. It may wait behind a job in the backlog of a busy worker."""
_PATIENCE: Final = 10.0
"""Seconds without an answer after which the next place is probed as well."""
_WARNING_INTERVAL: Final = 60.0
_CONNECTIONS_BEFORE_WARNING: Final = 3
"""A server may start to listen a moment after its application."""
_LONGEST_REASON: Final = 500
_HOST: Final = re.compile(r"[!-~]+")

_log = logging.getLogger("backjob")


@frozen(repr=False)
class _Place:
    """A destination, and the mount under which its middleware is."""

    destination: Destination
    mount: str


@frozen(eq=False, repr=False)
class _Probe:
    delivery: Attempt
    future: Future[Response]
    nonce: str
    until: float


class Proof:
    """The proof of one process. ``post`` has the monitor's thread call a function; a transport's thread calls ``post``."""

    def __init__(self, parts: DeliveryParts, post: Callable[[Callable[[], None]], None]) -> None:
        self._parts = parts
        self._post = post
        self._monotonic = parts.clock.monotonic
        self._keys = parts.signer.derive(MARK_LABEL)
        self._place: _Place | None = None
        self.reached: object | None = None
        """Which of the addresses of the destination has proven itself, if its transport says that."""
        self._valid_until = -math.inf
        self._seen: tuple[Addresses, int] | None = None
        self._probes: dict[_Place, _Probe] = {}
        self._tried: dict[_Place, tuple[Waiting, str]] = {}
        self._failures = 0
        self._next_try = 0.0
        self._quiet_until = -math.inf
        self._logged = ""
        self.waiting: Waiting | None = None
        """Why jobs wait since the last probe failed; None once a destination has proven itself."""
        self.reason = ""
        """The same in words."""

    def destination(self) -> Destination | None:
        """Return the destination to which worker requests may go now, or None."""
        addresses = self._parts.addresses()
        destinations = addresses.destinations
        if destinations and not destinations[0].needs_proof:
            return destinations[0]
        self._notice(addresses)
        return self._place.destination if self._place is not None and self._monotonic() < self._valid_until else None

    def next_event(self) -> float:
        """Return when `seek` has something to do, on the monotonic clock (s), if jobs are waiting."""
        return self._next_try if self._parts.addresses().destinations else math.inf

    def doubt(self) -> None:
        """Ask for a new proof before the next worker request."""
        self._valid_until = -math.inf

    def judge(self, sent: LastSent, job_id: str, response: Response | None) -> bool:
        """Return whether this application answered a worker request. If not, as with None, the proof ends.

        Otherwise it lasts from when the request was sent: the answer may come long after the server gave up its port.
        """
        destination = sent.destination
        if not destination.needs_proof:
            return True
        if response is None or self._missing(destination, response, job_id, sent.run, sent.delivery):
            self.doubt()
            return False
        if self._place is not None and self._place.destination is destination and self._valid_until > -math.inf:
            self._valid_until = max(self._valid_until, sent.at + _LASTS)
            if self._monotonic() < self._valid_until:
                self.waiting, self.reason = None, ""
        return True

    def says_end(self, sent: LastSent, job_id: str, response: Response) -> bool:
        """Return whether a response says, as only this application can, that the job has ended with that request."""
        return marks_end(response, self._keys, job_id, sent.run, sent.delivery)

    def seek(self, job: Job) -> bool:
        """Probe the next place to which this waiting job's request could go. A place has at most one probe at a time.

        Returns whether all places have failed now.
        """
        self._notice(self._parts.addresses())
        now = self._monotonic()
        if now < self._next_try:
            return False
        for place, probe in [*self._probes.items()]:
            if probe.until <= now:
                self._fail(place, "connection", f"no answer for {_LIFETIME:.0f} s")
                probe.future.cancel()
        untried = [one for one in self._places(job) if one not in self._tried and one not in self._probes]
        if untried:
            self._next_try = now + _PATIENCE
            self._send(untried[0], job, now)
        elif self._tried:
            self._failures += 1
            self._next_try = now + backoff(self._failures)
            self._publish(now)
            return True
        else:
            self._next_try = min((probe.until for probe in self._probes.values()), default=now + _PATIENCE)
            self.waiting = "connection"
            self.reason = f"no answer yet from {', '.join(place.destination.name for place in self._probes)}"
            _log.info("jobs wait: %s", self.reason)
        return False

    def _notice(self, addresses: Addresses) -> None:
        seen = addresses, addresses.arrivals
        if seen != self._seen:
            self._seen = seen
            self._tried.clear()
            self._next_try = 0.0
            self.doubt()

    def _places(self, job: Job) -> list[_Place]:
        """Return the places to probe: first the one that proved itself last, then those that were shown last."""
        addresses = self._parts.addresses()
        destinations = addresses.destinations
        mount = "" if job.request is None else job.request.mount
        places = [_Place(destination, mount) for destination in destinations]
        if self._place is not None and self._place.destination in destinations:
            places.insert(0, self._place)
        return [*dict.fromkeys(places)]

    def _send(self, place: _Place, job: Job, now: float) -> None:
        nonce = secrets.token_urlsafe(18)
        target = f"{place.mount}{self._parts.status_prefix}{PROBE_PATH}"
        request = Request(
            "GET", target, (("User-Agent", "backjob"), *host_of(place.destination, job)), mount=place.mount
        )
        clock = self._parts.clock
        deadline = clock.now() + timedelta(seconds=_LIFETIME)
        delivery = Attempt(nonce, PROBE_RUN, PROBE_ATTEMPT, deadline, request, self._parts.signer, clock)
        try:
            future = place.destination.transport.send(delivery)
        except Exception as error:
            self._tried[place] = "connection", f"{place.destination.name}: {type(error).__name__}"
            raise
        probe = self._probes[place] = _Probe(delivery, future, nonce, now + _LIFETIME)
        future.add_done_callback(lambda _: self._post(lambda: self._conclude(place, probe)))

    def _conclude(self, place: _Place, probe: _Probe) -> None:
        if self._probes.get(place) is not probe:
            return  # another place has proven itself, or it took too long
        if failure(probe.future) is not None:
            self._fail(place, "connection", describe(probe.future))
        elif missing := self._missing(place.destination, probe.future.result(), probe.nonce):
            self._fail(place, "proof", missing)
        else:
            self._accept(place, probe.delivery.reached)

    def _accept(self, place: _Place, reached: object | None) -> None:
        if self._logged:
            _log.info("%s has proven to be this application: jobs are delivered again", place.destination.name)
        self._place, self.reached, self._valid_until = place, reached, self._monotonic() + _LASTS
        self._failures, self._next_try, self._logged = 0, 0.0, ""
        self.waiting, self.reason = None, ""
        self._tried.clear()
        others, self._probes = self._probes, {}
        for other in others.values():
            other.future.cancel()

    def _fail(self, place: _Place, waiting: Waiting, reason: str) -> None:
        del self._probes[place]
        # A stranger may have written a part of the reason: it must neither begin another line of the log nor fill it.
        shown = "".join(character if character.isprintable() else " " for character in reason[:_LONGEST_REASON])
        self._tried[place] = waiting, f"{place.destination.name}: {shown}"
        self._next_try = 0.0

    def _publish(self, now: float) -> None:
        """After a round without success: set the reason, and log a warning if it is new, or once a minute."""
        is_answered = any(waiting == "proof" for waiting, _ in self._tried.values())
        self.waiting = "proof" if is_answered else "connection"
        self.reason = "; ".join(dict.fromkeys(reason for _, reason in self._tried.values()))
        is_learnt = any(place.destination.port is not None for place in self._tried)
        self._tried.clear()
        is_early = self.waiting == "connection" and self._failures < _CONNECTIONS_BEFORE_WARNING
        if is_early or (self.reason == self._logged and now < self._quiet_until):
            return
        self._logged, self._quiet_until = self.reason, now + _WARNING_INTERVAL
        remedy = (
            self._parts.base_url_setting
            if is_learnt
            else "check the base URL, and that nothing answers before the middleware"
        )
        _log.warning("jobs wait until this application answers a probe: %s; %s", self.reason, remedy)

    def _missing(
        self,
        destination: Destination,
        response: Response,
        job_id: str,
        run: int = PROBE_RUN,
        delivery: int = PROBE_ATTEMPT,
    ) -> str:
        """Return what an answer lacks to be this application's, or an empty text."""
        port = marked_port(response, self._keys, job_id, run, delivery)
        if port is not None and destination.port is not None and port != str(destination.port):
            return f"the application at port {port} answered, so something relays requests to it"
        if port is not None:
            return ""
        line = status_line(response.status, response.reason)
        location = response.header("location")
        refusal = response.header(REFUSAL_HEADER)
        if refusal is not None:
            detail = response.body[:300].decode("utf-8", "replace").strip()
            return f"{line}: the middleware refused the probe ({refusal}). {detail}".rstrip()
        where = f"{line} → {location}" if location else line
        return f"{where}: not by this application's middleware; is it installed, or does a login page or another site answer first?"


def host_of(destination: Destination, job: Job) -> Headers:
    """Return the field Host of a request to a learnt address: that of the job's starting request.

    Middleware before ours, or a server with several sites, may accept no other host.
    """
    host = "" if job.caller is None or destination.port is None else job.caller.host
    return (("Host", host),) if _HOST.fullmatch(host) else ()
