"""A future gets the first outcome, whoever has it, and nothing that happens to it disturbs the transport's thread."""

from __future__ import annotations

import logging
from concurrent.futures import Future, wait

import pytest

from backjob.errors import ConnectionLost, InvalidRequest, NotSent
from backjob.model import Response
from backjob.transports.settling import settle

OK = Response(200)
LOST = ConnectionLost("the transport was closed")


@pytest.mark.parametrize("outcome", [OK, LOST])
def test_the_first_outcome_counts_and_later_ones_are_dropped(
    outcome: Response | BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    future: Future[Response] = Future()
    settle(future, outcome)
    settle(future, NotSent("late"))
    settle(future, Response(500))
    assert (future.exception(0) or future.result(0)) is outcome
    assert caplog.records == []


def test_an_outcome_of_a_cancelled_future_wakes_those_who_wait_for_it() -> None:
    future: Future[Response] = Future()
    assert future.cancel()
    settle(future, OK)
    assert wait([future], 0).done == {future}
    assert future.cancelled()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("Cookie: secret"), "ValueError"),
        (InvalidRequest("headers", "are too long"), "headers: are too long"),
    ],
)
def test_an_error_of_another_kind_means_that_the_request_may_have_arrived(error: Exception, reason: str) -> None:
    future: Future[Response] = Future()
    settle(future, error)
    lost = future.exception(0)
    assert isinstance(lost, ConnectionLost)
    assert (lost.reason, lost.__cause__) == (reason, error)


def test_an_error_keeps_no_frames() -> None:
    future: Future[Response] = Future()
    with pytest.raises(NotSent) as caught:
        raise NotSent("no connection")
    settle(future, caught.value)
    assert caught.value.__traceback__ is None


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_a_failing_callback_is_logged_and_raises_nothing(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Future[Response]) -> None:
        raise error

    future: Future[Response] = Future()
    future.add_done_callback(fail)
    with caplog.at_level(logging.ERROR):
        settle(future, OK)
    assert future.result(0) is OK
    assert len(caplog.records) == 1
