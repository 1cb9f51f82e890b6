"""The monitor's thread closes its database connection."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db.backends.signals import connection_created
from django.test import override_settings

from backjob.django import jobs
from backjob.jobs import engine_of
from tests.scenarios.client import WAIT


@pytest.mark.usefixtures("database")
def test_the_monitors_thread_closes_its_connection() -> None:
    opened, made = threading.Event(), []

    def note(connection: Any, **_: Any) -> None:
        if threading.current_thread().name == "backjob-monitor":
            made.append(connection)
            opened.set()

    connection_created.connect(note)
    try:
        with override_settings(BACKJOB={"BASE_URL": "http://127.0.0.1:9"}):
            engine_of(jobs).monitor.ensure_running()
            assert opened.wait(WAIT)
            jobs.reset()
    finally:
        connection_created.disconnect(note)
    assert [connection.connection for connection in made] == [None]
