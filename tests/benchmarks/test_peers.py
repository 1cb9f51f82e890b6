"""The comparison with task queues: its parts without the network, and nightly a short run of all contenders."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from attrs import asdict, evolve

from tests.benchmarks.peers.__main__ import main, options
from tests.benchmarks.peers.contenders import CONTENDERS, Contender
from tests.benchmarks.peers.environments import cache_directory, directory_name
from tests.benchmarks.peers.running import Measured, running
from tests.benchmarks.peers.table import Result, median_of, table
from tests.services import RABBITMQ

BACKJOB = CONTENDERS[0]
ROUND = Measured(task=2e-3, processor=1e-3, call=3e-4, first_line=4e-3, report=2e-7, written_report=5e-5, status=7e-6)


def _named(title: str) -> Contender:
    (found,) = [contender for contender in CONTENDERS if contender.title == title]
    return found


def test_words_choose_contenders_by_their_titles() -> None:
    chosen = options(["celery", "SQLite", "--rounds", "2"])
    titles = [contender.title for contender in CONTENDERS if contender.matches(chosen.words)]
    assert titles == [
        *("backjob on SQLite", "Huey on SQLite", "django-tasks-db on SQLite"),
        *("Celery on Redis", "Celery on RabbitMQ"),
    ]
    assert chosen.rounds == 2
    assert all(contender.matches([]) for contender in CONTENDERS)


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.title)
def test_each_contender_has_an_application(contender: Contender) -> None:
    assert find_spec(contender.module) is not None
    assert bool(contender.workers) == bool(contender.packages)


def test_contenders_with_the_same_packages_share_an_environment_outside_of_the_source_tree(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory().parent == tmp_path
    assert directory_name(_named("Huey on SQLite")) == directory_name(_named("Huey on Redis"))
    assert directory_name(_named("Huey on Redis")) != directory_name(_named("RQ on Redis"))


def test_the_table_has_a_row_for_each_contender_with_the_median_of_its_rounds() -> None:
    rounds = [ROUND, Measured(**{name: 2 * value for name, value in asdict(ROUND).items()}), ROUND]
    without = evolve(ROUND, report=None, written_report=None)
    results = [
        Result(BACKJOB, "1.0", median_of(rounds)),
        Result(_named("Celery on RabbitMQ"), "5.7", median_of([without])),
    ]
    lines = table(results).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert [len(row) for row in rows] == [7, 7, 7, 7]
    assert rows[2] == ["backjob 1.0, SQLite", "500", "1 ms", "300 µs", "4 ms", "200 ns; 50 µs if written", "7 µs"]
    assert rows[3][0] == "Celery 5.7, RabbitMQ, results in Redis"
    assert rows[3][5] == "–"
    assert lines[-1] == "Workers: backjob on SQLite: the web server's 4 threads; Celery on RabbitMQ: 4 threads."


@pytest.mark.slow
def test_a_round_measures_tasks_reports_and_reads(tmp_path: Path) -> None:
    with running(BACKJOB, tmp_path, tmp_path, f"sqlite:///{tmp_path / 'tasks.db'}") as started:
        measured = started.measure(tasks=20, singles=2, rest=0.0, reports=200, reads=5)
    assert started.version
    assert measured.report is not None
    assert measured.written_report is not None
    assert 0 < measured.report < measured.written_report
    assert all(value > 0 for value in (measured.task, measured.call, measured.first_line, measured.status))


@pytest.mark.nightly
@pytest.mark.services
@pytest.mark.timeout(900)
def test_all_contenders_run(capsys: pytest.CaptureFixture[str]) -> None:
    RABBITMQ.require()
    main(["--rounds", "1", "--tasks", "20", "--singles", "2", "--reports", "20", "--reads", "5"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(CONTENDERS)
