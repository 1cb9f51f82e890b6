"""Which errors of an action the server must see: those that the handler of a signal raises."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from backjob.worker.exits import call_contained, is_from_signal


class Worker:
    """Handles a signal as gunicorn's worker does."""

    def abort(self, _number: int, _frame: object) -> None:
        sys.exit(1)


def caught(action: Callable[[], object]) -> BaseException:
    try:
        action()
    except BaseException as error:
        return error
    raise AssertionError("it raised nothing")


@pytest.fixture
def handle() -> Iterator[Callable[[Any], Any]]:
    before = signal.getsignal(signal.SIGUSR1)
    yield functools.partial(signal.signal, signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("handler", [Worker().abort, functools.partial(Worker.abort, Worker())])
@pytest.mark.parametrize("grouped", [False, True])
def test_an_exit_by_a_signal_s_handler_is_the_server_s(handle: Any, handler: Any, grouped: bool) -> None:
    handle(handler)

    def action() -> None:
        for _ in range(3):
            signal.raise_signal(signal.SIGUSR1)

    error = caught(action)
    assert isinstance(error, SystemExit)
    assert is_from_signal(BaseExceptionGroup("tasks", [ValueError(), error]) if grouped else error)


def test_a_ctrl_c_is_the_server_s() -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def action() -> None:
        signal.raise_signal(signal.SIGINT)
        for _ in range(1000):
            pass

    assert is_from_signal(caught(action))


def leave(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    "action",
    [
        sys.exit,
        lambda: sys.exit(3),
        lambda: leave(KeyboardInterrupt()),
        lambda: leave(GeneratorExit()),
        lambda: leave(BaseExceptionGroup("tasks", [SystemExit()])),
        lambda: leave(ValueError()),
    ],
)
def test_an_exit_by_the_action_s_own_code_is_not(action: Any) -> None:
    assert not is_from_signal(caught(action))


def test_an_error_that_was_caught_and_raised_again_is_not() -> None:
    def action() -> None:
        try:
            leave(KeyboardInterrupt())
        finally:
            sys.intern("clean up")

    assert not is_from_signal(caught(action))


def test_an_error_without_a_traceback_is_not() -> None:
    assert not is_from_signal(KeyboardInterrupt())


def test_a_contained_hook_is_logged_unless_a_signal_ends_it(handle: Any, caplog: pytest.LogCaptureFixture) -> None:
    call_contained(lambda: sys.exit(3), "the hook of job %s", "j1")
    assert "the hook of job j1 failed" in caplog.text
    handle(Worker().abort)
    with pytest.raises(SystemExit):
        call_contained(lambda: signal.raise_signal(signal.SIGUSR1), "the hook")
