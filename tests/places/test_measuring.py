"""The doctor measures how many requests real servers handle at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backjob.cli.findings import check_places
from backjob.cli.measuring import Measured, Sender, measure
from backjob.signing import MessageSigner
from backjob.transports.sockets import SocketTransport
from tests.faults.killing import Herd, HerdKind, herd
from tests.places.timing import environment
from tests.scenarios.servers import gunicorn, python_server, uvicorn
from tests.scenarios.sites import KEY

TRIES = 4  # on a machine that is busy with other work, some answers come too late to be counted

pytestmark = pytest.mark.nightly

SERVERS: list[Any] = [
    (
        HerdKind("waitress", python_server("waitress"), is_single=True),
        Measured(4, False, 1, 2),
        "at most 2 of them are jobs",
    ),
    (HerdKind("gunicorn sync x2", gunicorn("--workers=2")), Measured(2, False, 2, 1), "every page waits"),
    (HerdKind("gunicorn 1x4", gunicorn("--workers=1", "--threads=4")), Measured(4, False, 1, 2), "at most 2 of them"),
    (HerdKind("uvicorn", uvicorn(), app="asgi_app"), Measured(64, True, 1, 100), "64 or more requests at once"),
]


def measured_at(server: Herd) -> Measured | None:
    assert isinstance(server.client.address, tuple)
    transport = SocketTransport(f"http://127.0.0.1:{server.client.address[1]}")
    try:
        return measure(Sender(transport, MessageSigner(KEY), "/ready", (("User-Agent", "doctor"),), 20.0))
    finally:
        transport.close()


@pytest.mark.parametrize(("kind", "expected", "words"), SERVERS, ids=[str(server[0]) for server in SERVERS])
def test_the_doctor_measures_what_a_server_handles_at_once(
    kind: HerdKind, expected: Measured, words: str, tmp_path: Path
) -> None:
    with herd(
        kind, "tests.places.places_app", tmp_path, environment(f"sqlite:///{tmp_path}/jobs.db", tmp_path)
    ) as server:
        for _ in range(20):
            assert server.client.get("/page").status == 200  # each process has seen a request
        found: list[Measured | None] = []
        while len(found) < TRIES and expected not in found:
            found.append(measured_at(server))
    print(f"{kind}: {check_places(expected)}")
    assert expected in found, found
    assert words in str(check_places(expected))
