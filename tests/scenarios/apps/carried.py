"""The Celery application of the scenario sites whose jobs Celery carries, and the dispatch of their jobs.

``celery -A tests.scenarios.apps.carried:celery worker`` imports the site ``SCENARIO_APP`` too. It runs the jobs itself if
``SCENARIO_IN_PROCESS`` names the site as ``module:app``; otherwise it sends them to the web server. The queue "limited" has a
soft time limit.
"""

from __future__ import annotations

import os
from typing import Final

from backjob.celery import CeleryDispatch
from backjob.protocols import Transport
from backjob.settings import named
from tests.brokers import Place

__all__ = ["QUEUES", "SOFT_LIMIT", "celery"]

SOFT_LIMIT: Final = 1

celery: Final = Place(os.environ["SCENARIO_BROKER"], os.environ["SCENARIO_QUEUE"]).celery(os.environ["SCENARIO_APP"])


def _in_process() -> Transport:
    from backjob.transports.inprocess import InProcessTransport

    app = named(os.environ["SCENARIO_IN_PROCESS"], "SCENARIO_IN_PROCESS")
    return InProcessTransport(app, threads=int(os.environ["SCENARIO_THREADS"]))


_transport: Final = _in_process if "SCENARIO_THREADS" in os.environ else os.environ.get("SCENARIO_IN_PROCESS")

QUEUES: Final = {
    "default": {"dispatch": CeleryDispatch(celery, transport=_transport)},
    "limited": {"dispatch": CeleryDispatch(celery, transport=_transport, soft_time_limit=SOFT_LIMIT)},
}
