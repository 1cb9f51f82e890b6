"""Scenario sites whose jobs Celery carries: a web server that starts jobs and delivers none, and beside it a Celery worker."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from attrs import evolve, frozen

from tests.brokers import BROKERS, Broker, Place
from tests.scenarios.servers import KINDS, Kind, gunicorn
from tests.scenarios.sites import Site, serving

__all__ = ["CELERY_IN_CI", "WITH_CELERY", "WITH_CELERY_PAIRS", "WithCelery", "carried", "celery_worker"]

_CONCURRENCY: Final = 4


@frozen
class WithCelery:
    """Celery on a broker. ``in_process``: its workers run the jobs; otherwise they send them to the web server."""

    broker: Broker
    server: Kind
    in_process: bool

    @property
    def kind(self) -> Kind:
        """The web server, with a worker beside it."""
        return evolve(self.server, name=self.name, workers=_CONCURRENCY, beside=(celery_worker(),))

    @property
    def name(self) -> str:
        how = "in-process" if self.in_process else "sockets"
        return f"{self.server.name}-celery-{self.broker.name.lower()}-{how}"

    def settings(self, place: Place, app: str) -> dict[str, str]:
        """Further environment variables for the site of an app (``module:name`` in `apps`), with a place of the broker."""
        name = f"tests.scenarios.apps.{app}"
        how = {"SCENARIO_IN_PROCESS": name} if self.in_process else {"BACKJOB_MAX_RUNNING": str(_CONCURRENCY)}
        return {**place.environment, "SCENARIO_APP": name.partition(":")[0], "BACKJOB_SEAL": "yes", **how}


@contextmanager
def carried(way: WithCelery, app: str, directory: Path, **more: str) -> Iterator[Site]:
    """Run a site during the block, as `serving` does, whose jobs Celery carries."""
    with (
        way.broker.place() as place,
        serving(way.kind, app, directory, **way.settings(place, app), **more) as site,
    ):
        yield evolve(site, place=place)


def celery_worker(*options: str, concurrency: int = _CONCURRENCY) -> list[str]:
    """The command of a Celery worker for `apps.carried`."""
    base = [
        "-A",
        "tests.scenarios.apps.carried:celery",
        "worker",
        "--concurrency",
        str(concurrency),
        "--loglevel",
        "INFO",
    ]
    return [sys.executable, "-m", "celery", *base, "--without-gossip", "--without-mingle", *options]


# The server has as many threads for pages as for jobs.
_SERVERS: Final = (
    evolve(
        KINDS["gunicorn-threads"],
        name="gunicorn",
        command=gunicorn("--worker-class=gthread", f"--threads={2 * _CONCURRENCY}"),
    ),
    evolve(KINDS["uvicorn-h11"], name="uvicorn"),
)
WITH_CELERY: Final = {
    way.name: way
    for server in _SERVERS
    for broker in BROKERS
    for in_process in (False, True)
    for way in [WithCelery(broker, server, in_process)]
}
CELERY_IN_CI: Final = ("plain_app", "gunicorn-celery-rabbitmq-in-process")
"""The app and the kind of site that are tested in the usual runs."""
WITH_CELERY_PAIRS: Final = (
    CELERY_IN_CI,
    ("plain_app", "gunicorn-celery-redis-in-process"),
    ("plain_app", "gunicorn-celery-rabbitmq-sockets"),
    ("plain_app", "gunicorn-celery-redis-sockets"),
    ("flask_app", "gunicorn-celery-redis-in-process"),
    ("flask_app", "gunicorn-celery-rabbitmq-sockets"),
    ("django_app", "gunicorn-celery-rabbitmq-in-process"),
    ("django_app", "gunicorn-celery-redis-sockets"),
    ("asgi_app", "uvicorn-celery-rabbitmq-in-process"),
    ("asgi_app", "uvicorn-celery-redis-sockets"),
)
