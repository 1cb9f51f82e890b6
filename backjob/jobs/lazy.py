"""An engine that is built at its first use, so that a mistake in the settings fails `start()` but no page of the site."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, TypeVar

from backjob.clock import SystemClock
from backjob.errors import BackJobError, StoreError
from backjob.jobs.engine import Engine
from backjob.model import Request
from backjob.protocols import Clock, Signer
from backjob.signing.carriers import CARRIERS
from backjob.worker.replies import Refusal

_RETRY_INTERVAL: Final = 5.0  # s

_log = logging.getLogger("backjob")

_Engine = TypeVar("_Engine", bound=Engine)


class LazyEngine(Generic[_Engine]):
    """The engine that ``build`` returns. If ``build`` raises during a page, it logs the error once. Thread-safe."""

    def __init__(self, build: Callable[[], _Engine], clock: Clock | None = None) -> None:
        self._build = build
        self._monotonic = (clock or SystemClock()).monotonic
        self._building = threading.RLock()
        self._engine: _Engine | None = None
        self._error: Exception | None = None
        self._logged: str | None = None
        self._retry_at = 0.0

    @property
    def built(self) -> _Engine | None:
        """The engine, if it was built."""
        return self._engine

    def get(self) -> _Engine:
        """Return the engine. Raises what ``build`` raises; after a `StoreError` it tries again once in 5 s."""
        if self._engine is None:
            with self._building:
                if isinstance(self._error, StoreError):
                    self._wait_for_retry()
                return self._try()
        return self._engine

    def get_if_usable(self) -> _Engine | None:
        """Return the engine, or None if it can't be built. Tries again at most once in 5 s. For requests that need no job."""
        if self._engine is not None:
            return self._engine
        if not self._building.acquire(blocking=self._error is None):
            return None  # another thread tries again, perhaps waiting for a server
        try:
            self._wait_for_retry()
            return self._try()
        except Exception as error:
            self._log_once(error)
            return None
        finally:
            self._building.release()

    def reset(self) -> _Engine | None:
        """Forget the engine and the error, and return the engine if it was built. The next use builds another one."""
        with self._building:
            engine, self._engine, self._error, self._logged = self._engine, None, None, None
            return engine

    def _wait_for_retry(self) -> None:
        if self._error is not None and self._monotonic() < self._retry_at:
            raise self._error.with_traceback(None)

    def _try(self) -> _Engine:
        if self._engine is not None:
            return self._engine
        try:
            engine = self._engine = self._build()
        except Exception as error:
            self._retry_at = self._monotonic() + _RETRY_INTERVAL
            self._error = error
            raise
        if self._logged is not None:
            _log.warning("background jobs work again")
        self._error = self._logged = None
        return engine

    def _log_once(self, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        if text != self._logged:
            self._logged = text
            trace = None if isinstance(error, BackJobError) else error
            _log.error("background jobs are off until this is corrected; start() raises it: %s", error, exc_info=trace)


def check_without_engine(forms: Callable[[], tuple[Request, ...]], signer: Signer | None = None) -> None:
    """Raise a temporary `Refusal` if this is a worker request, which must not run as an ordinary request without an engine."""
    claims = [carrier.claims for carrier in CARRIERS.values()]
    if signer is not None:
        claims.append(signer.claims)
    is_claimed = False
    with suppress(Exception):  # as `Engine.worker_request` does
        request = forms()[0]
        is_claimed = any(claim(request) for claim in claims)
    if is_claimed:
        text = "background jobs are not configured in this process; its log says why"
        raise Refusal(503, "Service Unavailable", "unavailable", text)
