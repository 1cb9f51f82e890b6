"""A job started through a test client of werkzeug, Flask, Starlette or Django: nothing leaves the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypedDict

import pytest
import werkzeug.test
from flask import Flask

from backjob import BackJob, BackJobError
from backjob.asgi import BackJobMiddleware as AsgiMiddleware
from backjob.flask import BackJob as FlaskBackJob
from backjob.protocols import Transport
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.transports.sockets import SocketTransport
from backjob.wsgi import BackJobMiddleware
from tests.scenarios.apps.plain import site_of
from tests.scenarios.sites import KEY, settings
from tests.scenarios.strangers import ALICE, Stranger


class Parts(TypedDict):
    store: MemoryStore
    transport: Transport | Callable[[str], Transport]
    signer: MessageSigner


START: Final = json.dumps({"path": "/work/see"}).encode()


def by_werkzeug(parts: Parts, port: int) -> Any:
    with closing(BackJob(**parts)) as jobs:
        client = werkzeug.test.Client(BackJobMiddleware(site_of(jobs), jobs))
        return client.post("/start", base_url=f"http://127.0.0.1:{port}", headers=ALICE, data=START).json


def by_flask(parts: Parts, port: int) -> Any:
    app = Flask(__name__)
    with closing(FlaskBackJob(app, **parts)) as jobs:

        @app.post("/start")
        def start() -> dict[str, str]:
            try:
                return {"id": jobs.start("/work/see")}
            except BackJobError as error:
                return {"error": type(error).__name__, "text": str(error)}

        return app.test_client().post("/start", base_url=f"http://127.0.0.1:{port}", headers=ALICE).json


def by_starlette(parts: Parts, port: int) -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
    from starlette.testclient import TestClient

    with closing(BackJob(**parts)) as jobs:

        async def start(_request: Request) -> Response:
            try:
                return JSONResponse({"id": await jobs.astart("/work/see")})
            except BackJobError as error:
                return JSONResponse({"error": type(error).__name__, "text": str(error)})

        app = Starlette(routes=[Route("/start", start, methods=["POST"])])
        client = TestClient(AsgiMiddleware(app, jobs), f"http://127.0.0.1:{port}")
        return client.post("/start", headers=ALICE).json()


@pytest.mark.filterwarnings("ignore:Using `httpx`")
@pytest.mark.parametrize("configured", [False, True], ids=["learning", "configured"])
@pytest.mark.parametrize("post", [by_werkzeug, by_flask, by_starlette])
def test_a_test_client_sends_nothing_out_of_the_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, post: Callable[[Parts, int], Any], configured: bool
) -> None:
    monkeypatch.setenv("SCENARIO_RUNS", str(tmp_path / "runs"))
    with Stranger() as stranger:
        transport = SocketTransport(f"http://127.0.0.1:{stranger.port}") if configured else SocketTransport
        answer = post({"store": MemoryStore(), "transport": transport, "signer": MessageSigner(KEY)}, stranger.port)
        check_that_it_was_refused(answer, stranger)


@pytest.mark.slow
@pytest.mark.parametrize("configured", [False, True], ids=["learning", "configured"])
def test_djangos_test_client_sends_nothing_out_of_the_process(tmp_path: Path, configured: bool) -> None:
    with Stranger() as stranger:
        environment = settings(tmp_path)
        if configured:
            environment["BACKJOB_BASE_URL"] = f"http://127.0.0.1:{stranger.port}"
        script = f"""
            import tests.scenarios.apps.django_app
            from django.test import Client
            client = Client(headers={ALICE!r}, SERVER_NAME="127.0.0.1", SERVER_PORT={stranger.port})
            print(client.post("/start", {START!r}, content_type="application/json").content.decode())
        """
        command = [sys.executable, "-c", textwrap.dedent(script)]
        printed = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True).stdout
        check_that_it_was_refused(json.loads(printed), stranger)


def check_that_it_was_refused(answer: Any, stranger: Stranger) -> None:
    assert (answer.get("error"), stranger.received) == ("AddressUnknown", []), answer
    assert "immediate() or recorded()" in answer["text"]
