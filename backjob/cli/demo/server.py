"""``backjob demo``: a site on the standard library's server, with jobs in a temporary file. Needs the core alone."""

from __future__ import annotations

import secrets
import socket
import socketserver
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, TextIO
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from backjob.cli.demo.site import Site
from backjob.cli.following import follow
from backjob.errors import InvalidRequest
from backjob.http.addresses import learnt_base_url
from backjob.jobs import BackJob
from backjob.signing import MessageSigner
from backjob.stores.sqlite import SQLiteStore
from backjob.transports.sockets import SocketTransport
from backjob.wsgi import BackJobMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["Demo", "demo", "run_once", "serve"]

_PAUSE: Final = 0.05
_SHORT_PAUSE: Final = 0.005
_PATIENCE: Final = 2.0
_POLL: Final = 0.1
_STREAMS: Final = 32  # a thread each, which this server has


class Demo:
    """A demo that is being served at ``url``."""

    def __init__(self, site: Site, jobs: BackJob, url: str) -> None:
        self.site = site
        self.jobs = jobs
        self.url = url


def run_once(stream: TextIO, *, fail: bool = False) -> int:
    """Serve on a free port, run one job by a real request of the site to itself, and print it.

    Returns the exit code that tells its end: 0 if it COMPLETED.
    """
    with demo("127.0.0.1", 0, pause=_SHORT_PAUSE, fail=fail) as running:
        return follow(running.jobs, running.site.start(), stream)


def serve(stream: TextIO, host: str, port: int) -> int:
    """Serve until Ctrl-C; one job starts by itself, and is drawn here. Raises `InvalidRequest` for a port in use."""
    with demo(host, port) as running:
        stream.write(f"Open {running.url} and start jobs there; Ctrl-C ends the demo.\nOne starts here and now:\n")
        stream.flush()
        try:
            follow(running.jobs, running.site.start(), stream)
            threading.Event().wait()
        except KeyboardInterrupt:
            stream.write("the demo ends\n")
    return 0


@contextmanager
def demo(host: str, port: int, *, pause: float = _PAUSE, fail: bool = False) -> Iterator[Demo]:
    """A demo that is served while the context lasts. Raises `InvalidRequest` for an address it can't have."""
    with TemporaryDirectory(prefix="backjob-demo-", ignore_cleanup_errors=True) as directory:
        server = _listen(host, port)
        url = learnt_base_url(server.server_address, server.address_family, tls=False)
        with BackJob(
            SQLiteStore(Path(directory, "jobs.db")),
            SocketTransport(url),
            MessageSigner(secrets.token_bytes(32)),
            streams=_STREAMS,
        ) as jobs:
            site = Site(jobs, pause=pause, fail=fail)
            server.set_app(_said_to_be_threaded(BackJobMiddleware(site, jobs)))
            thread = threading.Thread(target=server.serve_forever, args=(_POLL,), name="backjob-demo", daemon=True)
            thread.start()
            try:
                yield Demo(site, jobs, url)
            finally:
                site.stop(_PATIENCE)
                server.shutdown()
                server.server_close()


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """The standard library's, with a thread for each request: a job's own among them."""

    daemon_threads = True
    request_queue_size = 64

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks a resolver for this host's name.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    """Writes no line for each of a watching page's requests; gives up on a connection that stays silent."""

    timeout = 30.0

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


def _said_to_be_threaded(app: WSGIApplication) -> WSGIApplication:
    """The app, told the truth about its server: wsgiref says that it takes one request at a time, threads or not."""

    def told(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.multithread"] = True
        return app(environ, start_response)

    return told


def _listen(host: str, port: int) -> _Server:
    if not 0 <= port < 1 << 16:
        raise InvalidRequest("port", "a number from 0 to 65535 is needed")
    kind = _ServerV6 if ":" in host else _Server
    try:
        return kind((host, port), _Handler)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InvalidRequest(
            "port", f"can't listen on {host}:{port}: {reason}; --port 0 takes any that is free"
        ) from None
