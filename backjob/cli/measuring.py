"""Measure how many requests the server handles at once, with signed probes whose answers the middleware holds back."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
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

    They were in so many ``processes``, each of which may run ``places`` jobs (None: unknown).
    """

    at_once: int
    is_more: bool = False
    processes: int = 1
    places: int | None = None


@frozen
class _Answer:
    at: float
    response: Response


def measure(transport: Transport, signer: Signer, path: str, headers: Headers, timeout: float) -> Measured | None:
    """Send 2, 4, 8 … up to 64 requests at once, until some have to wait for others. Takes a few seconds.

    Returns None if the server holds no answer back, or does not answer in time.
    """
    most = _MOST if transport.capacity is None else max(1, min(_MOST, transport.capacity))
    count = min(2, most)
    while True:
        answers = _wave(transport, signer, path, headers, count, timeout)
        if answers is None:
            return None
        if len(answers) < count or count >= most:
            return _measured(answers, is_more=len(answers) == count)
        count = min(most, count * 2)


def _wave(
    transport: Transport, signer: Signer, path: str, headers: Headers, count: int, timeout: float
) -> list[_Answer] | None:
    """Send so many requests at once, and return the answers of those that were handled together with the first."""
    began = time.monotonic()
    answers: list[_Answer] = []

    def note(future: Future[Response]) -> None:
        if not future.cancelled() and future.exception() is None:
            answers.append(_Answer(time.monotonic(), future.result()))

    futures = [_sent(transport, signer, path, headers, timeout) for _ in range(count)]
    for future in futures:
        future.add_done_callback(note)
    try:
        wait(futures, timeout, return_when="FIRST_COMPLETED")
        if not answers or answers[0].at - began < _HOLD * _WAVE:
            return None
        until = answers[0].at + _HOLD * _WAVE
        wait(futures, until - time.monotonic())
        together = [answer for answer in [*answers] if answer.at <= until]
        return together if all(one.response.header(PROCESS_HEADER) for one in together) else None
    finally:
        for future in futures:
            future.cancel()


def _sent(transport: Transport, signer: Signer, path: str, headers: Headers, timeout: float) -> Future[Response]:
    clock = SystemClock()
    separator = "&" if "?" in path else "?"
    request = Request("GET", f"{path}{separator}{HOLD}={_HOLD}", headers)

    def sign() -> Request:
        now = int(clock.now().timestamp())
        return signer.sign(request, Grant(f"doctor-{secrets.token_urlsafe(18)}", 1, PROBE_ATTEMPT, now, now + 30))

    return transport.send(Probe(clock.now() + timedelta(seconds=timeout), sign))


def _measured(answers: list[_Answer], *, is_more: bool) -> Measured:
    shown = [(answer.response.header(PROCESS_HEADER) or "").split() for answer in answers]
    places = {fields[1] for fields in shown if len(fields) == 2}
    known = int(next(iter(places))) if len(places) == 1 and next(iter(places)).isdigit() else None
    return Measured(len(answers), is_more, len({fields[0] for fields in shown if fields}), known)
