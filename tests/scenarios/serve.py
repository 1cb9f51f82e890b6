"""Runs an app on one of the servers that are called from Python: ``serve.py SERVER MODULE:APP DESCRIPTOR``.

The descriptor is that of a listening socket, inherited from the test: nobody can take its port in between.
"""

from __future__ import annotations

import socket
import sys
from importlib import import_module
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["load", "main"]


def load(name: str) -> WSGIApplication:
    """The application that ``module:name`` names."""
    module, _, attribute = name.partition(":")
    app: WSGIApplication = getattr(import_module(module), attribute)
    return app


def _wsgiref(app: WSGIApplication, listening: socket.socket) -> None:
    server = WSGIServer(listening.getsockname(), WSGIRequestHandler, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    server.server_name, server.server_port = "localhost", listening.getsockname()[1]
    server.setup_environ()
    server.set_app(app)
    server.serve_forever()


def _werkzeug(app: WSGIApplication, listening: socket.socket) -> None:
    from werkzeug.serving import make_server

    host, port = listening.getsockname()[:2]
    make_server(host, port, app, threaded=True, fd=listening.fileno()).serve_forever()


def _waitress(app: WSGIApplication, listening: socket.socket) -> None:
    from waitress import serve

    serve(app, sockets=[listening], threads=4)


def main(arguments: list[str]) -> None:
    """Serve until the process is ended."""
    server, name, descriptor = arguments
    listening = socket.socket(fileno=int(descriptor))
    {"wsgiref": _wsgiref, "werkzeug": _werkzeug, "waitress": _waitress}[server](load(name), listening)


if __name__ == "__main__":
    main(sys.argv[1:])
