"""Text that an action prints, echoes and streams forms one output, in the order of the calls."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from backjob.errors import StoreUnavailable
from backjob.model import Status
from backjob.wsgi import BackJobMiddleware
from tests.unit.core import Bench, bench
from tests.unit.gateways import environ_of

DEADLINE = 30.0
STEPS = ["print", "stream", "echo", "stream", "print", "stdout", "write", "echo", "print", "stream"]


@pytest.mark.parametrize("pause", [0.0, 0.05, 0.2], ids=["at once", "coalesced", "each written"])
def test_print_echo_and_stream_keep_their_order(pause: float) -> None:
    world = bench()
    job_id = run(world, lambda write: steps(world, write, pause))
    expected = "".join(f"{number} {step} ä\n" for number, step in enumerate(STEPS))
    assert world.jobs.output(job_id).text == expected
    assert world.job(job_id).status is Status.COMPLETED


def steps(world: Bench, write: Callable[[bytes], object], pause: float) -> Iterator[bytes]:
    for number, step in enumerate(STEPS):
        world.step(pause)  # the monitor may write in between
        text = f"{number} {step} ä\n"
        match step:
            case "print":
                print(text, end="")
            case "stdout":
                sys.stdout.write(text)
            case "echo":
                world.jobs.echo(text)
            case "write":
                write(text.encode())
            case _:
                yield text.encode()


def test_text_added_during_a_failed_write_comes_after_the_text_of_that_write() -> None:
    world = bench()
    running = world.run()
    running.write("first ")
    running.write("second ")

    def fail() -> None:
        running.write("third ")
        raise StoreUnavailable("locked")

    world.store.before["report"] = fail
    world.step(1)
    assert world.jobs.output(running.job.id).text == "first "
    running.write("fourth")
    world.step(2)
    assert world.jobs.output(running.job.id).text == "first second third fourth"


def test_text_of_another_thread_does_not_overtake_a_write() -> None:
    world = bench()
    running = world.run()
    world.step(1)

    def write_more() -> None:
        running.write("second ")
        running.flush()

    other = threading.Thread(target=write_more)

    def meanwhile() -> None:
        other.start()
        other.join(0.2)  # it must wait for this write; otherwise it has overtaken it by now

    world.store.before["report"] = meanwhile
    running.write("first ")
    running.flush()
    other.join(DEADLINE)
    assert not other.is_alive()
    assert world.jobs.output(running.job.id).text == "first second "


def run(world: Bench, body: Callable[[Callable[[bytes], object]], Iterable[bytes]]) -> str:
    """Run one job whose action streams this body, and may also call PEP 3333's ``write``. Return the job's id."""

    def action(environ: Any, start_response: Any) -> Iterable[bytes]:
        return body(start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")]))

    job_id = world.start()
    world.step()
    request = world.transport.sent[0].delivery.sign()
    environ = environ_of(request.path, request.query)
    b"".join(BackJobMiddleware(action, world.jobs)(environ, lambda *_: lambda _: None))
    return job_id
