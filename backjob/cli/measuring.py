"""Measure how many requests the server handles at once, with signed probes whose answers the middleware holds back."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from datetime import datetime, timedelta
from typing import Final

from attrs import define, field, frozen

from backjob.clock import SystemClock
from backjob.http.marks import PROBE_ATTEMPT
from backjob.model import Grant, Headers, Request, Response
from backjob.protocols import Signer, Transport
from backjob.worker.probing import HOLD, PROCESS_HEADER

_HOLD: Final = 0.5  # s
_WAVE: Final = 0.6
"""The part of a hold within which the answers of requests that were handled together arrive."""
_MOST: Final = 64
_TRIES: Final = 3
"""Waves of one size: a busy machine delays some answers, so that a wave may show fewer than the server handles, but not more."""


@define
class Probe:
    """A `Delivery` of a request that belongs to no job."""

    deadline: datetime
    _sign: Callable[[], Request] = field(repr=False)
    job_id: str = "doctor"
    attempt: int = 1
    reached: object | None = None

    def sign(self) -> Request:
        return self._sign()


@frozen
class Measured:
    """How many requests the server held ``at_once``; ``is_more``: perhaps it handles more.

    They were in this number of ``processes``, each of which may run ``places`` jobs (None: unknown).
    """

    at_once: int
    is_more: bool = False
    processes: int = 1
    places: int | None = None


@frozen
class _Answer:
    at: float
    response: Response


@frozen
class Sender:
    """Sends probes for this ``path``, signed by the application's signer. ``timeout`` (s) bounds the wait for an answer."""

    transport: Transport
    signer: Signer
    path: str
    headers: Headers
    timeout: float

    def __call__(self) -> Future[Response]:
        clock = SystemClock()
        separator = "&" if "?" in self.path else "?"
        request = Request("GET", f"{self.path}{separator}{HOLD}={_HOLD}", self.headers)

        def sign() -> Request:
            now = int(clock.now().timestamp())
            grant = Grant(f"doctor-{secrets.token_urlsafe(18)}", 1, PROBE_ATTEMPT, now, now + 30)
            return self.signer.sign(request, grant)

        return self.transport.send(Probe(clock.now() + timedelta(seconds=self.timeout), sign))


def measure(send: Sender) -> Measured | None:
    """Send 2, 4, 8 … up to 64 requests at once, until some have to wait for others. Takes a few seconds.

    Returns None if the server holds no answer back, or does not answer in time.
    """
    capacity = send.transport.capacity
    most = _MOST if capacity is None else max(1, min(_MOST, capacity))
    count = min(2, most)
    while True:
        answers = _largest_wave(send, count)
        if not answers:
            return None
        if len(answers) < count or count >= most:
            return _measured(answers, is_more=len(answers) == count)
        count = min(most, count * 2)


def _largest_wave(send: Sender, count: int) -> list[_Answer]:
    """The answers of the wave in which the server handled most of ``count`` requests together."""
    largest: list[_Answer] = []
    for _ in range(_TRIES):
        answers = _wave(send, count)
        largest = max(largest, answers, key=len)
        if not answers or len(answers) == count:
            break
    return largest


def _wave(send: Sender, count: int) -> list[_Answer]:
    """Send ``count`` requests at once, and return the answers of those that the server handled together with the first."""
    began = time.monotonic()
    answers: list[_Answer] = []

    def note(future: Future[Response]) -> None:
        if not future.cancelled() and future.exception() is None:
            answers.append(_Answer(time.monotonic(), future.result()))

    futures = [send() for _ in range(count)]
    for future in futures:
        future.add_done_callback(note)
    try:
        wait(futures, send.timeout + _HOLD, FIRST_COMPLETED)
        if not answers or answers[0].at - began < _HOLD * _WAVE:
            return []
        until = answers[0].at + _HOLD * _WAVE
        wait(futures, until - time.monotonic())
        together = [answer for answer in [*answers] if answer.at <= until]
        return together if all(one.response.header(PROCESS_HEADER) for one in together) else []
    finally:
        for future in futures:
            future.cancel()


def _measured(answers: list[_Answer], *, is_more: bool) -> Measured:
    shown = [(answer.response.header(PROCESS_HEADER) or "").split() for answer in answers]
    places = {fields[1] for fields in shown if len(fields) == 2}
    known = int(next(iter(places))) if len(places) == 1 and next(iter(places)).isdigit() else None
    return Measured(len(answers), is_more, len({fields[0] for fields in shown if fields}), known)
