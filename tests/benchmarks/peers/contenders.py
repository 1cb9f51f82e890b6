"""Who is compared: for each contender its packages, its workers and what keeps its tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import frozen

__all__ = ["CONTENDERS", "WORKERS", "Contender"]

WORKERS: Final = 4
"""How many tasks each contender runs at once."""

_APPS: Final = "tests.benchmarks.peers.apps"

Programs = Callable[[str], list[str]]


@frozen(kw_only=True)
class Contender:
    """``packages`` are its requirements, the first one is the contender itself; none: this environment has it.

    ``workers`` are the commands of its workers, each of which is started so many times, and ``prepare`` is one that runs
    before; the first word of each is a program of its environment. ``store`` keeps tasks and results, of the kinds of
    `tests.benchmarks.metered`; ``rabbitmq`` says that a broker carries the tasks. ``setting`` describes it for the reader.
    """

    name: str
    module: str
    store: str
    setting: str
    packages: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    times: int = 1
    prepare: tuple[str, ...] = ()
    rabbitmq: bool = False
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def keeper(self) -> str:
        """What keeps its tasks."""
        return f"RabbitMQ, results in {self.store}" if self.rabbitmq else self.store

    @property
    def title(self) -> str:
        return f"{self.name} on {'RabbitMQ' if self.rabbitmq else self.store}"

    def matches(self, words: list[str]) -> bool:
        """Whether one of these words is in its title; without words, all contenders are meant."""
        return not words or any(word.lower() in self.title.lower() for word in words)


def _backjob(store: str) -> Contender:
    return Contender(
        name="backjob",
        module=f"{_APPS}.with_backjob",
        store=store,
        setting=f"in the web server's process, {WORKERS} threads",
    )


def _huey(store: str, setting: str) -> Contender:
    return Contender(
        name="Huey",
        module=f"{_APPS}.with_huey",
        store=store,
        packages=("huey", "redis"),
        workers=(
            *("huey_consumer", f"{_APPS}.with_huey.huey", "--workers", str(WORKERS), "--worker-type", "thread"),
            *("--delay", "0.02", "--max-delay", "0.1", "--no-periodic", "--quiet"),
        ),
        setting=f"1 process, {WORKERS} threads{setting}",
    )


def _celery(*, rabbitmq: bool) -> Contender:
    return Contender(
        name="Celery",
        module=f"{_APPS}.with_celery",
        store="Redis",
        packages=("celery[redis]",),
        workers=(
            *(
                "celery",
                "--app",
                f"{_APPS}.with_celery:app",
                "worker",
                "--pool",
                "threads",
                "--concurrency",
                str(WORKERS),
            ),
            *("--loglevel", "ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat"),
        ),
        rabbitmq=rabbitmq,
        setting=f"1 process, {WORKERS} threads",
    )


def _django(store: str) -> Contender:
    return Contender(
        name="django-tasks-db",
        module=f"{_APPS}.with_django_tasks",
        store=store,
        packages=("django-tasks-db[compat]", "psycopg[binary]"),
        prepare=("django-admin", "migrate", "--verbosity", "0"),
        workers=("django-admin", "db_worker", "--interval", "0.1", "--no-startup-delay", "--verbosity", "0"),
        times=WORKERS,
        environment=(("DJANGO_SETTINGS_MODULE", f"{_APPS}.django_settings"),),
        setting=f"{WORKERS} processes, poll every 0.1 s",
    )


CONTENDERS: Final = (
    _backjob("SQLite"),
    _huey("SQLite", ", poll every 0.02–0.1 s"),
    _django("SQLite"),
    _backjob("PostgreSQL"),
    _django("PostgreSQL"),
    _backjob("Redis"),
    _huey("Redis", ""),
    Contender(
        name="RQ",
        module=f"{_APPS}.with_rq",
        store="Redis",
        packages=("rq",),
        workers=(
            "rq",
            "worker-pool",
            "--num-workers",
            str(WORKERS),
            "--worker-class",
            "rq.worker.SimpleWorker",
            "--quiet",
        ),
        setting=f"{WORKERS} processes that do not fork for each job",
    ),
    Contender(
        name="Dramatiq",
        module=f"{_APPS}.with_dramatiq",
        store="Redis",
        packages=("dramatiq[redis]",),
        workers=("dramatiq", f"{_APPS}.with_dramatiq", "--processes", "1", "--threads", str(WORKERS), "--skip-logging"),
        setting=f"1 process, {WORKERS} threads",
    ),
    _celery(rabbitmq=False),
    _celery(rabbitmq=True),
)
"""Each with the fastest of the ways to run workers that its documentation recommends."""
