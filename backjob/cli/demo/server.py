"""``backjob demo``: a site on the standard library's server, with its jobs in a temporary file. Needs no extras."""

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

from attrs import frozen

from backjob.cli.demo.site import Site
from backjob.cli.watching import watch
from backjob.errors import InvalidRequest
from backjob.http.addresses import learnt_base_url
from backjob.jobs import BackJob
from backjob.signing import MessageSigner
from backjob.stores.sqlite import SQLiteStore
from backjob.transports.sockets import SocketTransport
from backjob.wsgi import BackJobMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_PAUSE: Final = 0.05  # s for each row
_SHORT_PAUSE: Final = 0.005  # s for each row, with --once
_STOP_TIMEOUT: Final = 2.0  # s
_POLL: Final = 0.1  # s
_STREAMS: Final = 32  # each takes a thread, and this server starts as many as it needs


@frozen
class Demo:
    """A running demo at ``url``."""

    site: Site
    jobs: BackJob
    url: str


def run_once(stream: TextIO, *, fail: bool = False) -> int:
    """Run one job by a real self-request on a free port, and print its output and progress.

    Returns the exit code for its end: 0 if it COMPLETED.
    """
    with demo("127.0.0.1", 0, pause=_SHORT_PAUSE, fail=fail) as running:
        return watch(running.jobs, running.site.start(), stream)


def serve(stream: TextIO, host: str, port: int) -> int:
    """Serve until Ctrl-C, and watch a first job in the terminal. Raises `InvalidRequest` if the port is in use."""
    with demo(host, port) as running:
        stream.write(f"Open {running.url} to start jobs; press Ctrl-C to stop the demo.\nA first job:\n")
        stream.flush()
        try:
            watch(running.jobs, running.site.start(), stream)
            threading.Event().wait()
        except KeyboardInterrupt:
            stream.write("demo stopped\n")
    return 0


@contextmanager
def demo(host: str, port: int, *, pause: float = _PAUSE, fail: bool = False) -> Iterator[Demo]:
    """Serve the demo inside the ``with`` block. Raises `InvalidRequest` if it can't listen on the address."""
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
            server.set_app(_declared_threaded(BackJobMiddleware(site, jobs)))
            thread = threading.Thread(target=server.serve_forever, args=(_POLL,), name="backjob-demo", daemon=True)
            thread.start()
            try:
                yield Demo(site, jobs, url)
            finally:
                site.stop(_STOP_TIMEOUT)
                server.shutdown()
                server.server_close()


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """The standard library's server, with a thread for each request, worker requests included."""

    daemon_threads = True
    request_queue_size = 64

    def server_bind(self) -> None:
        # HTTPServer.server_bind() looks up this host's name, which can be slow.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    """Logs no requests; closes a connection after 30 s without data."""

    timeout = 30.0

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


def _declared_threaded(app: WSGIApplication) -> WSGIApplication:
    """Correct ``wsgi.multithread``, which wsgiref sets to False even for a server with threads."""

    def corrected(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.multithread"] = True
        return app(environ, start_response)

    return corrected


def _listen(host: str, port: int) -> _Server:
    if not 0 <= port < 1 << 16:
        raise InvalidRequest("port", "must be a number from 0 to 65535")
    kind = _ServerV6 if ":" in host else _Server
    try:
        return kind((host, port), _Handler)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InvalidRequest("port", f"can't listen on {host}:{port}: {reason}; --port 0 picks a free port") from None
