"""Flask applications for the tests, and a server for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.serving import make_server

SECRET = "Hq7vX2mZ9tB4kW8rN1cJ6yL3pD5sF0gA"


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[Callable[..., Flask]]:
    """``make_app(name="shop", **config)``: an application without a BackJob. If the test adds one, it is closed."""
    with ExitStack() as closing:

        def make(name: str = "shop", **config: Any) -> Flask:
            app = Flask(name, instance_path=str(tmp_path / name))
            app.config.from_mapping({"SECRET_KEY": SECRET, **config})
            closing.callback(lambda: app.extensions["backjob"].close() if "backjob" in app.extensions else None)
            return app

        yield make


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app()


@pytest.fixture
def serve() -> Callable[[Flask], Any]:
    """``with serve(app) as base_url``: a real, threaded server on a free port."""

    @contextmanager
    def serving(app: Flask) -> Iterator[str]:
        server = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(10)
            app.extensions["backjob"].close()
            server.server_close()

    return serving
