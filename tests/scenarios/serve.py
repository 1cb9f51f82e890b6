"""Run an app on a server that must be started from Python: ``serve.py SERVER MODULE:APP DESCRIPTOR [OPTION…]``.

The descriptor is a listening socket inherited from the test, so that no other process can take its port. The
option is a file with a certificate and its key, the headers that waitress believes, or after how many seconds granian kills
a worker that it stops.
"""

from __future__ import annotations

import socket
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["load", "main"]

_GRANIAN_THREADS: Final = 4


def load(name: str) -> WSGIApplication:
    """The WSGI application that ``module:name`` names."""
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


def _werkzeug(app: WSGIApplication, listening: socket.socket, *certificate: str) -> None:
    from werkzeug.serving import make_server

    host, port = listening.getsockname()[:2]
    tls = (certificate[0], certificate[0]) if certificate else None
    make_server(host, port, app, threaded=True, ssl_context=tls, fd=listening.fileno()).serve_forever()


def _waitress(app: WSGIApplication, listening: socket.socket) -> None:
    from waitress import serve

    serve(app, sockets=[listening], threads=4)


def _trusting_waitress(
    app: WSGIApplication,
    listening: socket.socket,
    headers: str = "x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto",
) -> None:
    from waitress import serve

    serve(app, sockets=[listening], threads=4, trusted_proxy="*", trusted_proxy_headers=set(headers.split()))


def _aiohttp(app: Any, listening: socket.socket) -> None:
    from aiohttp import web

    web.run_app(app, sock=listening, shutdown_timeout=1, print=None)


def _granian(interface: str, name: str, listening: socket.socket, kill_timeout: str | None = None) -> None:
    """Run granian, which loads the application itself, in a separate process."""
    from granian.constants import Interfaces
    from granian.server import MPServer

    holder: Any = import_module("granian.net").SocketHolder  # its type stub has no constructor

    class Adopting(MPServer):
        def _init_shared_socket(self) -> None:
            server: Any = self
            server._shd = holder(listening.fileno(), uds=False, backlog=128)
            self._sso = listening
            listening.set_inheritable(True)

    threads = _GRANIAN_THREADS if interface == "wsgi" else None
    host, port = listening.getsockname()[:2]
    Adopting(
        name,
        host,
        port,
        interface=Interfaces(interface),
        blocking_threads=threads,
        workers_kill_timeout=None if kill_timeout is None else int(kill_timeout),
    ).serve()


def main(arguments: list[str]) -> None:
    """Serve until the process ends."""
    server, name, descriptor, *options = arguments
    listening = socket.socket(fileno=int(descriptor))
    if server in ("granian-asgi", "granian-wsgi"):
        _granian(server.removeprefix("granian-"), name, listening, *options)
        return
    run = {
        "wsgiref": _wsgiref,
        "werkzeug": _werkzeug,
        "waitress": _waitress,
        "trusting-waitress": _trusting_waitress,
        "aiohttp": _aiohttp,
    }[server]
    run(load(name), listening, *options)


if __name__ == "__main__":
    main(sys.argv[1:])
