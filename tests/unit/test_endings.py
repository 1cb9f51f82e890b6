"""An end is always written, and a report too: in plainer forms, if the store refuses the text or the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backjob.errors import InvalidRequest, StoreUnavailable, StoreUnusable
from backjob.lifecycle import completed, failed
from backjob.model import Changes, Expect, Job, Report, Status
from backjob.stores.memory import MemoryStore
from backjob.testing import FakeClock
from backjob.worker.outcomes import Outcome
from tests.unit.core import Bench, bench


class Refusing:
    """A store that can't keep some values."""

    def __init__(self, store: Any, refuses: Callable[[Any, Any, str], bool], error: type[Exception]) -> None:
        self._store = store
        self._refuses = refuses
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def _check(self, text: Any, result: Any, output: str = "") -> None:
        if self._refuses(text if isinstance(text, str) else None, result, output):
            raise (
                self._error("Incorrect string value") if self._error is not InvalidRequest else InvalidRequest("a", "b")
            )

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        self._check(changes.status_text, changes.result if changes.end else None)
        job: Job | None = self._store.change(job_id, expect, changes)
        return job

    def report(self, job_id: str, token: str, report: Report) -> bool:
        self._check(report.text, None, report.output)
        return bool(self._store.report(job_id, token, report))


def world_with(refuses: Callable[[Any, Any, str], bool], error: type[Exception] = InvalidRequest) -> Bench:
    clock = FakeClock()
    refusing: Any = Refusing(MemoryStore(clock=clock), refuses, error)
    return bench(clock=clock, store=refusing)


def utf8mb3(text: str | None, _result: Any, _output: str) -> bool:
    return text is not None and any(ord(character) > 0xFFFF for character in text)


def latin1(text: str | None, _result: Any, _output: str) -> bool:
    return text is not None and not all(ord(character) < 256 for character in text)


def any_text(text: str | None, _result: Any, _output: str) -> bool:
    return text is not None


@pytest.mark.parametrize("error", [InvalidRequest, ValueError, RecursionError, UnicodeError])
@pytest.mark.parametrize(
    ("refuses", "written"),
    [
        (utf8mb3, "ValueError: ä€ \\U0001f600"),
        (latin1, "ValueError: \\xe4\\u20ac \\U0001f600"),
        (any_text, "half way"),
    ],
)
def test_an_error_s_text_is_written_in_a_form_that_the_store_keeps(
    refuses: Any, written: str, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    world = world_with(lambda *_: False)
    running = world.run()
    running.set_text("half way")
    refusing: Any = world.store.store
    refusing._refuses, refusing._error = refuses, error
    world.engine.worker.end(running, Outcome(error=ValueError("ä€ \U0001f600")))
    job = world.job(running.job.id)
    assert (job.status, job.status_text) == (Status.FAILED, written)
    assert "ä€ \U0001f600" in caplog.text
    assert [state.id for state in world.ended] == [job.id]


def test_a_result_that_the_store_refuses_is_left_out_and_said() -> None:
    world = world_with(lambda text, result, output: result not in (None, "unset") and isinstance(result, dict))
    running = world.run()
    running.finish = completed("Done", {"rows": 5})
    world.engine.worker.end(running, Outcome(200, "OK"))
    job = world.job(running.job.id)
    assert (job.status, job.result) == (Status.COMPLETED, None)
    assert job.status_text == "Done (the store refused the result; see the log)"


def test_a_report_that_the_store_refuses_does_not_stop_later_ones() -> None:
    world = world_with(utf8mb3)
    running = world.run()
    running.set_text("a \U0001f600", 20)
    assert (world.job(running.job.id).status_text, world.job(running.job.id).progress) == ("a \\U0001f600", 20)
    world.clock.advance(1)
    running.set_text("plain", 30)
    assert (world.job(running.job.id).status_text, world.job(running.job.id).progress) == ("plain", 30)


def test_output_that_the_store_refuses_is_dropped_and_the_job_ends() -> None:
    world = world_with(lambda text, result, output: "bad" in output)
    running = world.run()
    running.write("bad")
    running.flush()
    running.write("bad again")
    world.engine.worker.end(running, Outcome(200, "OK"))
    assert world.job(running.job.id).status is Status.COMPLETED


def test_every_end_that_backjob_writes_is_written() -> None:
    world = world_with(utf8mb3)
    for end in (lambda job_id: world.jobs.fail("no \U0001f600", job_id=job_id), world.jobs.cancel):
        job_id = world.start()
        end(job_id)
        assert world.job(job_id).status.is_final
    job_id = world.start()
    world.step()
    world.transport.sent[-1].answer(418, "Teapot", body="\U0001f600".encode(), headers=(("backjob-refusal", "x"),))
    world.step()
    assert world.job(job_id).status is Status.FAILED


def test_an_end_that_an_unusable_store_refuses_is_retried() -> None:
    world = bench()
    running = world.run()
    world.store.broken["change"] = StoreUnusable("permission denied")
    world.engine.worker.end(running, Outcome(200, "OK"))
    world.step(2)
    assert world.job(running.job.id).status is Status.IN_PROGRESS
    del world.store.broken["change"]
    world.step(2)
    assert world.job(running.job.id).status is Status.COMPLETED


def test_a_result_at_which_the_server_drops_the_connection_is_left_out_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = bench()
    running = world.run()
    running.finish = completed("Done", "x" * 100_000)
    change = world.store.store.change

    def drop(job_id: str, expect: Expect, changes: Changes) -> Job | None:
        if isinstance(changes.result, str):
            raise StoreUnavailable("the server has gone away")
        return change(job_id, expect, changes)

    monkeypatch.setattr(world.store.store, "change", drop)
    world.engine.worker.end(running, Outcome(200, "OK"))
    for _ in range(5):
        world.step(1)
    job = world.job(running.job.id)
    assert (job.status, job.result) == (Status.COMPLETED, None)


def test_a_small_end_waits_for_the_store_with_its_result() -> None:
    world = bench()
    running = world.run()
    running.finish = completed("Done", {"rows": 5})
    world.store.down = {"change"}
    world.engine.worker.end(running, Outcome(200, "OK"))
    for _ in range(8):
        world.step(1)
    world.store.down = set()
    world.step(2)
    assert world.job(running.job.id).result == {"rows": 5}


def test_the_last_form_has_neither_text_nor_result() -> None:
    world = world_with(lambda text, result, output: text is not None or isinstance(result, dict))
    running = world.run()
    running.finish = completed("Done", {"rows": 5})
    world.engine.worker.end(running, Outcome(200, "OK"))
    assert world.job(running.job.id).status is Status.COMPLETED
    other = world.run()
    world.engine.end(other.job.id, failed("why"))
    assert world.job(other.job.id).status is Status.FAILED
