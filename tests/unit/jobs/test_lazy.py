"""An engine that is built at its first use, and the site without one."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from backjob.errors import InvalidRequest, StoreUnusable
from backjob.jobs import LazyEngine, check_without_engine, engine_of
from backjob.model import Grant, Request
from backjob.signing import MessageSigner
from backjob.testing import FakeClock
from backjob.worker.replies import Refusal
from tests.unit.core import KEY, bench


class Builder:
    """Fails with ``error`` until it is None."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.calls = 0
        self.clock = FakeClock()
        self.engine = engine_of(bench().jobs)
        self.lazy = LazyEngine(self._build, self.clock)

    def _build(self) -> Any:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return self.engine


def test_the_engine_is_built_once() -> None:
    builder = Builder(None)
    assert builder.lazy.built is None
    assert builder.lazy.get() is builder.lazy.get() is builder.lazy.get_if_usable() is builder.lazy.built
    assert builder.calls == 1


def test_an_error_is_logged_once_and_raised_at_each_use(caplog: pytest.LogCaptureFixture) -> None:
    builder = Builder(InvalidRequest("SECRET_KEY", "is too short"))
    for _ in range(3):
        assert builder.lazy.get_if_usable() is None
        with pytest.raises(InvalidRequest, match="SECRET_KEY: is too short"):
            builder.lazy.get()
        builder.clock.advance(60)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "SECRET_KEY: is too short" in caplog.text


def test_a_cause_that_is_gone_is_noticed_within_5_s_and_no_sooner_tried(caplog: pytest.LogCaptureFixture) -> None:
    builder = Builder(StoreUnusable("not writable"))
    assert builder.lazy.get_if_usable() is None
    builder.error = None
    assert builder.lazy.get_if_usable() is None
    with pytest.raises(StoreUnusable):
        builder.lazy.get()
    assert builder.calls == 1
    builder.clock.advance(5)
    assert builder.lazy.get_if_usable() is builder.engine
    assert builder.lazy.get() is builder.engine
    assert "work again" in caplog.text


def test_a_corrected_setting_is_used_at_once_by_start() -> None:
    builder = Builder(InvalidRequest("SECRET_KEY", "is too short"))
    assert builder.lazy.get_if_usable() is None
    builder.error = None
    assert builder.lazy.get() is builder.engine


def test_an_unexpected_error_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    assert Builder(ImportError("no module")).lazy.get_if_usable() is None
    assert caplog.records[0].exc_info is not None


def test_while_one_thread_tries_again_no_page_waits_for_it() -> None:
    builder = Builder(StoreUnusable("a server that does not answer"))
    assert builder.lazy.get_if_usable() is None
    builder.clock.advance(5)
    trying, done = threading.Event(), threading.Event()

    def slow() -> Any:
        trying.set()
        assert done.wait(10)
        raise StoreUnusable("still")

    builder.lazy._build = slow
    retry = threading.Thread(target=builder.lazy.get_if_usable)
    retry.start()
    assert trying.wait(10)
    assert builder.lazy.get_if_usable() is None
    done.set()
    retry.join(10)


@pytest.mark.parametrize("carrier", ["query", "header"])
def test_without_an_engine_a_worker_request_is_refused_for_now_and_others_pass(carrier: Any) -> None:
    signed = MessageSigner(KEY, carrier=carrier).sign(Request("GET", "/work"), Grant("job", 1, 1, 1_000, 2_000))
    with pytest.raises(Refusal) as refused:
        check_without_engine(lambda: (signed,))
    assert (refused.value.status, refused.value.kind) == (503, "unavailable")
    check_without_engine(lambda: (Request("GET", "/work?backjob=1"),))


def test_without_an_engine_the_signer_of_the_application_recognises_its_own_requests() -> None:
    class Signer:
        def claims(self, request: Request) -> bool:
            return "mine" in request.target

    signer: Any = Signer()
    with pytest.raises(Refusal):
        check_without_engine(lambda: (Request("GET", "/work?mine"),), signer)


def test_a_request_that_can_not_be_read_passes() -> None:
    def odd() -> tuple[Request, ...]:
        raise UnicodeEncodeError("latin-1", "Ω", 0, 1, "not Latin-1")

    check_without_engine(odd)
