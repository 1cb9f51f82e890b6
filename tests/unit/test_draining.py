"""Draining by signals, each in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from backjob.draining import Draining, drain_on_signals
from tests.unit.core import bench

ROOT = Path(__file__).parents[2]
PREAMBLE = """
import os, signal, sys, threading, time
from backjob.draining import Draining, drain_on_signals

def send(number):
    os.kill(os.getpid(), number)

def wait_until(condition):
    while not condition():
        threading.Event().wait(0.005)
"""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program after the preamble, and return it with its output once it has ended."""
    return subprocess.run(
        [sys.executable, "-u", "-c", PREAMBLE + textwrap.dedent(program), *arguments],
        check=False, cwd=ROOT, capture_output=True, text=True, timeout=30,
    )  # fmt: skip


SIGNALS = (signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow))


def test_the_flag_of_an_application_can_be_set_by_itself() -> None:
    one, other = Draining(), Draining()
    one.is_on = True
    assert (one.is_on, other.is_on) == (True, False)


def test_all_parts_of_a_draining_engine_drain() -> None:
    world = bench()
    parts = world.engine.delivery_parts
    assert not parts.is_draining()
    world.engine.draining.is_on = True
    assert parts.is_draining()
    assert world.jobs.time_left > 0  # outside of a job


@pytest.mark.parametrize("number", SIGNALS)
def test_a_handler_of_the_server_still_runs_and_finds_the_flag_set(number: signal.Signals) -> None:
    done = run(
        """
        drainings = [Draining(lambda: True), Draining(lambda: True)]
        number = int(sys.argv[1])
        signal.signal(number, lambda got, frame: print(got, [one.is_on for one in drainings]))
        drain_on_signals()
        drain_on_signals()
        send(number)
        print("goes on")
        """,
        str(int(number)),
    )
    assert done.stdout.splitlines() == [f"{int(number)} [True, True]", "goes on"], done.stderr


def test_an_error_that_the_servers_handler_raises_still_counts_as_raised_by_the_signal() -> None:
    done = run(
        """
        from backjob.worker.exits import is_from_signal
        def handle(number, frame):
            raise SystemExit(7)
        signal.signal(signal.SIGTERM, handle)
        drain_on_signals()
        try:
            send(signal.SIGTERM)
            time.sleep(5)
        except SystemExit as error:
            print(is_from_signal(error))
            raise
        """
    )
    assert (done.stdout.strip(), done.returncode) == ("True", 7), done.stderr


@pytest.mark.parametrize("number", SIGNALS)
def test_a_process_that_would_end_at_once_ends_when_its_jobs_have(number: signal.Signals) -> None:
    done = run(
        """
        busy = [True]
        draining = Draining(lambda: busy[0])
        drain_on_signals()
        send(int(sys.argv[1]))
        wait_until(lambda: draining.is_on)
        print("serves on")
        busy[0] = False
        threading.Event().wait(20)
        print("never")
        """,
        str(int(number)),
    )
    assert done.stdout.splitlines() == ["serves on"], done.stderr
    if number == signal.SIGTERM:
        assert done.returncode == -signal.SIGTERM
    else:
        assert "KeyboardInterrupt" in done.stderr


def test_it_ends_after_the_drain_time_though_a_job_still_runs() -> None:
    done = run(
        """
        draining = Draining(lambda: True, limit=0.2)
        drain_on_signals()
        send(signal.SIGTERM)
        threading.Event().wait(20)
        """
    )
    assert done.returncode == -signal.SIGTERM, done.stderr


def test_a_second_signal_ends_it_at_once() -> None:
    done = run(
        """
        draining = Draining(lambda: True, limit=3600)
        drain_on_signals()
        send(signal.SIGTERM)
        wait_until(lambda: draining.is_on)
        print("drains")
        send(signal.SIGTERM)
        threading.Event().wait(20)
        """
    )
    assert (done.stdout.strip(), done.returncode) == ("drains", -signal.SIGTERM), done.stderr


def test_a_signal_ends_it_also_while_the_main_thread_is_blocked_in_a_system_call() -> None:
    done = run(
        """
        import select
        reader, writer = os.pipe()
        busy = [True]
        draining = Draining(lambda: busy[0])
        drain_on_signals()
        threading.Thread(target=lambda: (wait_until(lambda: draining.is_on), busy.__setitem__(0, False)), daemon=True).start()
        threading.Timer(0.1, send, [signal.SIGTERM]).start()
        select.select([reader], [], [], 20)
        """
    )
    assert done.returncode == -signal.SIGTERM, done.stderr


def test_an_ignored_signal_stays_ignored() -> None:
    done = run(
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        draining = Draining()
        drain_on_signals()
        send(signal.SIGINT)
        print(draining.is_on)
        """
    )
    assert done.stdout.split() == ["False"], done.stderr


def test_a_forked_child_ends_at_once_as_it_has_no_thread_that_waits() -> None:
    done = run(
        """
        draining = Draining(lambda: True, limit=3600)
        drain_on_signals()
        child = os.fork()
        if not child:
            send(signal.SIGTERM)
            threading.Event().wait(20)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.WTERMSIG(status), draining.is_on)
        """
    )
    assert done.stdout.split() == [str(int(signal.SIGTERM)), "False"], done.stderr


def test_in_another_thread_it_says_where_to_call_it() -> None:
    errors: list[BaseException] = []

    def call() -> None:
        try:
            drain_on_signals()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert "main thread" in str(errors[0])
    assert "post_worker_init" in str(errors[0])
