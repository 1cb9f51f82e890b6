"""A process that an action forks: no job is current in it, and what the action has not written yet stays the parent's."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from backjob.errors import NoCurrentRequest
from backjob.http.serving import serving
from backjob.model import Status
from backjob.process import PerProcess
from backjob.worker.outcomes import Outcome, error_to_raise
from backjob.worker.running import current
from tests.unit.core import Bench, ManualLeases, bench, served

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")

DEADLINE = 60.0


def in_child(action: Callable[[], object]) -> str:
    """Return what the action prints in a forked child, or the error that it raises. It gets a stdout of its own."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(writing, 1)
            action()
            sys.stdout.flush()
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:  # noqa: PTH123 - a descriptor
        text = pipe.read()
    os.waitpid(pid, 0)
    return text


@pytest.fixture
def world() -> Bench:
    return bench()


def test_no_job_and_no_request_is_current_in_a_child(world: Bench) -> None:
    running = world.run()
    with served(), running.active():

        def look() -> None:
            os.write(1, repr((current.get(), serving.get(), world.jobs.is_background, world.jobs.job_id)).encode())

        assert in_child(look) == "(None, None, False, None)"
        assert current.get() is running


def test_reports_in_a_child_are_those_outside_of_a_job(world: Bench) -> None:
    running = world.run()
    with served(), running.active():
        assert in_child(lambda: world.jobs.update(50)) == ""
        assert in_child(lambda: world.jobs.increment(5)) == ""
        assert in_child(lambda: world.jobs.fail("no")).startswith("NoCurrentRequest: fail('no') ends an action")
        assert in_child(world.jobs.background_only(lambda: None)).startswith("NoCurrentRequest")
    assert world.job(running.job.id).progress == 0


def test_text_that_the_parent_has_not_written_stays_the_parents(world: Bench) -> None:
    running = world.run()
    with running.active():
        print("one")
        print("two")  # pending: it comes within the interval of the first

        def report() -> None:
            running.flush()
            running.write("from the child\n")
            with running.active():
                os.write(1, repr(current.get()).encode())
            world.jobs.bind(lambda: os.write(1, b" bound"))()
            world.engine.worker.end(running, Outcome(200, "OK"))

        assert in_child(report) == "None bound"
        print("three")
    world.engine.worker.end(running, Outcome(200, "OK"))
    assert world.jobs.output(running.job.id).text == "one\ntwo\nthree\n"


def test_a_child_waits_for_no_lock_that_a_thread_of_the_parent_holds(world: Bench) -> None:
    running = world.run()
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with running._writing, running._unwritten._lock:
            held.set()
            done.wait(DEADLINE)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(DEADLINE)
    try:
        with running.active():

            def flush() -> None:
                print("x", file=sys.__stderr__, end="")
                running.flush()
                os.write(1, b"done")

            assert in_child(flush) == "done"
    finally:
        done.set()
        holder.join(DEADLINE)


def test_sys_exit_in_a_child_ends_the_child_and_not_the_job(world: Bench) -> None:
    running = world.run()

    def leave() -> None:
        outcome = Outcome(error=SystemExit(0))
        world.engine.worker.end(running, outcome)
        os.write(1, repr(error_to_raise(running, outcome)).encode())

    assert in_child(leave) == "SystemExit(0)"
    assert world.job(running.job.id).status is Status.IN_PROGRESS


def test_a_child_runs_no_job_and_renews_no_lease(world: Bench) -> None:
    engine, running = world.engine, world.run()
    engine.lease_keepers = PerProcess(lambda: ManualLeases(engine.options.store, world.clock, 18.0, engine.release))
    engine.leases.add(running)
    world.store.calls.clear()

    def child() -> None:
        engine.leases.tick()
        os.write(1, f"{engine.worker.count} {engine.worker.is_busy} {world.store.calls}".encode())

    assert in_child(child) == "0 False []"
    engine.leases.tick()
    assert (engine.worker.count, world.store.calls) == (1, ["beat"])


def _square(number: int) -> int:
    print("square of", number)
    return number * number


def _fail(number: int) -> None:
    _jobs[0].fail("in a child")


_jobs: list[Any] = []


def test_a_pool_of_forked_processes_works_and_an_error_reaches_the_action(world: Bench) -> None:
    running = world.run()
    _jobs[:] = [world.jobs]
    with served(), running.active(), multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(_square, range(4)).get(DEADLINE) == [0, 1, 4, 9]
        with pytest.raises(NoCurrentRequest):
            pool.apply_async(_fail, (1,)).get(DEADLINE)
    world.engine.worker.end(running, Outcome(200, "OK"))
    assert world.jobs.output(running.job.id).text == ""
