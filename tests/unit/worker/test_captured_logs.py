"""Records of logging, and stderr, become output of the job if the settings say so."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tqdm import tqdm

from backjob.errors import InvalidRequest
from backjob.worker.running import Running
from tests.unit.core import Bench, bench

DEADLINE = 60.0

log = logging.getLogger("shop.export")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = sys.stdout, sys.stderr, log.level, log.propagate
    log.setLevel(logging.DEBUG)
    yield
    sys.stdout, sys.stderr, log.level, log.propagate = before


def output_of(world: Bench, running: Running) -> str:
    running.flush()
    return world.jobs.output(running.job.id).text


def test_records_from_the_level_on_are_output() -> None:
    world = bench(capture_logging="INFO")
    running = world.run()
    log.error("before")
    with running.active():
        log.debug("too low")
        log.info("%d rows", 50)
        print("printed")
        log.error("bad")
    log.error("after")
    assert output_of(world, running) == "INFO shop.export: 50 rows\nprinted\nERROR shop.export: bad\n"


def test_a_logger_that_lets_a_record_through_is_enough() -> None:
    world = bench(capture_logging="DEBUG")
    running = world.run()
    log.propagate = False
    with running.active():
        log.debug("alone")
        logging.getLogger("shop.quiet").debug("the level of the root logger is WARNING")
    assert output_of(world, running) == "DEBUG shop.export: alone\n"


def test_filters_and_disabled_loggers_are_respected() -> None:
    world = bench(capture_logging="DEBUG")
    running = world.run()

    def keeps(record: logging.LogRecord) -> bool:
        return "secret" not in record.getMessage()

    log.addFilter(keeps)
    try:
        with running.active():
            log.info("a secret")
            log.info("a word")
            log.disabled = True
            log.info("disabled")
    finally:
        log.disabled = False
        log.removeFilter(keeps)
    assert output_of(world, running) == "INFO shop.export: a word\n"


def test_records_of_backjob_itself_are_not_output() -> None:
    world = bench(capture_logging="DEBUG")
    running = world.run()
    with running.active():
        logging.getLogger("backjob").error("the store is away")
        logging.getLogger("backjob.django").error("no")
        logging.getLogger("backjobs").error("another logger")
    assert output_of(world, running) == "ERROR backjobs: another logger\n"


def test_each_job_gets_its_own_records_and_bound_threads_too() -> None:
    world = bench(capture_logging=logging.INFO)
    runs = [world.run() for _ in range(10)]

    def act(number: int) -> None:
        with runs[number].active():
            for line in range(50):
                log.info("%d %d", number, line)
            for target in (lambda: log.info("unbound"), world.jobs.bind(lambda: log.info("bound"))):
                thread = threading.Thread(target=target)
                thread.start()
                thread.join(DEADLINE)

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(act, range(10), timeout=DEADLINE))
    for number, running in enumerate(runs):
        lines = [f"INFO shop.export: {number} {line}" for line in range(50)]
        assert output_of(world, running).splitlines() == [*lines, "INFO shop.export: bound"]


def test_handlers_still_get_each_record_and_print_nothing_twice(caplog: pytest.LogCaptureFixture) -> None:
    world = bench(capture_logging="INFO", capture_stderr=True)
    running = world.run()
    with running.active():
        handler = logging.StreamHandler(sys.stderr)  # made in the job: its stream is captured
        log.addHandler(handler)
        log.info("once")
        log.removeHandler(handler)
        handler.emit(logging.makeLogRecord({"msg": "by hand"}))
    assert output_of(world, running) == "INFO shop.export: once\nby hand\n"
    assert [record.message for record in caplog.records if record.name == log.name] == ["once"]


def test_no_handler_is_added() -> None:
    before = list(logging.getLogger().handlers)
    world = bench(capture_logging="INFO")
    with world.run().active():
        log.info("x")
    assert logging.getLogger().handlers == before


def test_a_record_with_wrong_arguments_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    log.propagate = False
    world = bench(capture_logging="INFO")
    running = world.run()
    with running.active():
        log.info("%d rows", "many")
    assert output_of(world, running) == "INFO shop.export: %d rows\n"


def test_a_traceback_is_not_output() -> None:
    world = bench(capture_logging="INFO")
    running = world.run()
    with running.active():
        try:
            int("secret")
        except ValueError:
            log.exception("failed")
    assert output_of(world, running) == "ERROR shop.export: failed\n"


def test_by_default_neither_records_nor_stderr_are_output(capsys: pytest.CaptureFixture[str]) -> None:
    other = bench(capture_logging="INFO", capture_stderr=True)
    with other.run().active():
        pass  # wraps logging and installs the proxies
    world = bench()
    running = world.run()
    with running.active():
        log.error("not output")
        print("nor this", file=sys.stderr)
    assert output_of(world, running) == ""
    assert capsys.readouterr().err == "nor this\n"


def test_stderr_and_stdout_are_output_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    world = bench(capture_stderr=True)
    running = world.run()
    with running.active():
        print("one")
        print("two", file=sys.stderr)
        sys.stderr.buffer.write("ü".encode()[:1])
        print("three")
        sys.stderr.buffer.write("ü\n".encode()[1:])
    print("after", file=sys.stderr)
    assert output_of(world, running) == "one\ntwo\nthree\nü\n"
    assert capsys.readouterr().err == "after\n"


def test_tqdm_writes_to_stderr_and_so_to_the_output() -> None:
    world = bench(capture_stderr=True)
    running = world.run()
    with running.active():
        for _ in tqdm(range(3), desc="rows"):
            pass
    assert "rows: 100%" in output_of(world, running)


@pytest.mark.parametrize("level", ["loud", "", 0, -1, True, 3.5, []])
def test_a_level_must_be_one(level: Any) -> None:
    with pytest.raises(InvalidRequest, match="capture_logging: must be the name or number of a level"):
        bench(capture_logging=level)


@pytest.mark.parametrize(("level", "number"), [("info", 20), ("ERROR", 40), ("15", 15), (logging.WARNING, 30)])
def test_a_level_is_a_name_or_a_number(level: Any, number: int) -> None:
    assert bench(capture_logging=level).engine.options.capture_logging == number
