"""One connection, from the connect to the complete response, as a generator over a non-blocking socket.

The generator yields the `selectors` events that it waits for; the loop resumes it when one of them has occurred. The
loop owns the selector and the deadlines, and closes the socket.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Generator
from selectors import EVENT_READ, EVENT_WRITE
from typing import Final, TypeAlias

from attrs import define, frozen

from backjob.errors import BackJobError, ConnectionLost, NotSent
from backjob.http.addresses import Route
from backjob.http.wire import Reader, serialise
from backjob.model import Response
from backjob.protocols import Delivery
from backjob.transports.sockets.resolver import Peer

Steps: TypeAlias = Generator[int, None, Response]

_CHUNK: Final = 1 << 16
_IN_PROGRESS: Final = frozenset({errno.EINPROGRESS, errno.EINTR, errno.EALREADY})
_OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})


class Unreachable(NotSent):
    """No connection to this address; another address of the same host may work."""


@frozen(eq=False, repr=False)
class Terms:
    """The settings that all connections of a transport share. ``context`` is None without TLS."""

    route: Route
    context: ssl.SSLContext | None
    max_response: int
    max_header: int


@define(eq=False, repr=False)
class Line:
    """The socket of a connection and its progress.

    ``established``: connected, TLS included; the connect timeout no longer applies. ``written``: bytes of the request may
    have left, so that the server may have received it whatever happens now.
    """

    sock: socket.socket | None = None
    established: bool = False
    written: bool = False

    def hang_up(self) -> None:
        """Close at once. The shutdown reaches the peer even if a forked child still has a copy of the descriptor."""
        if self.sock is None:
            return
        if isinstance(self.sock, ssl.SSLSocket) and self.established:
            # RFC 8446, section 6.1: send close_notify first, without waiting for the peer's.
            with contextlib.suppress(OSError, ValueError):
                self.sock.unwrap()
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.drop()

    def drop(self) -> None:
        """Close only this process's copy of the descriptor; the peer notices nothing."""
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.close()


def describe(error: OSError) -> str:
    """Return the operating system's message for an error, without its number."""
    return error.strerror or type(error).__name__


def converse(line: Line, peer: Peer, terms: Terms, delivery: Delivery) -> Steps:
    """Connect, sign, send and read; the generator's value is the complete response.

    Signs once the connection is established. Raises `Unreachable`, `NotSent`, `ConnectionLost`, and whatever
    ``delivery.sign()`` raises.
    """
    sock = yield from _connect(line, peer)
    if terms.context is not None:
        sock = yield from _secure(line, sock, peer, terms.context, terms.route.server_name)
    line.established = True
    delivery.reached = peer
    method, payload = _signed(delivery, terms)
    del delivery  # the job may take hours: free the memory now
    incoming = _Incoming(sock, method, terms)
    try:
        response = yield from _write(line, sock, payload, incoming)
        del payload
        while response is None:
            yield EVENT_READ
            response = incoming.read()
    except OSError as error:
        reason = f"the connection broke: {_tls_message(error)}"
        raise (ConnectionLost(reason) if line.written else NotSent(reason)) from error
    return response


def _connect(line: Line, peer: Peer) -> Generator[int, None, socket.socket]:
    try:
        sock = line.sock = socket.socket(peer.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        if peer.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        if error.errno in _OUT_OF_DESCRIPTORS:
            raise NotSent(f"no file descriptor left for another connection: {describe(error)}") from error
        raise Unreachable(f"cannot connect to {peer.name}: {describe(error)}") from error
    code = sock.connect_ex(peer.address)
    if code in _IN_PROGRESS:
        if not _is_connected(sock):
            yield EVENT_WRITE
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise Unreachable(_connect_error(code, peer))
    if sock.getsockname() == peer.address and peer.family != socket.AF_UNIX:
        # TCP's simultaneous open: no server listens on that port, and the kernel gave this very socket the same one.
        raise Unreachable(f"connection refused: {peer.name}")
    return sock


def _is_connected(sock: socket.socket) -> bool:
    # On loopback, connect() has usually succeeded by the time it returns: this saves a turn of the selector.
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _connect_error(code: int, peer: Peer) -> str:
    if code == errno.ECONNREFUSED:
        return f"connection refused: {peer.name}"
    if code == errno.ETIMEDOUT:
        return f"timed out: no connection to {peer.name}"
    if code == errno.EAGAIN and peer.family == socket.AF_UNIX:
        return f"cannot connect to {peer.name}: the server's backlog is full"
    return f"cannot connect to {peer.name}: {os.strerror(code)}"


def _secure(
    line: Line, sock: socket.socket, peer: Peer, context: ssl.SSLContext, server_name: str
) -> Generator[int, None, ssl.SSLSocket]:
    try:
        # A connection that breaks without close_notify is not the end of a body (RFC 9112, section 9.8).
        secured = line.sock = context.wrap_socket(
            sock, server_hostname=server_name, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        while True:
            try:
                secured.do_handshake()
            except ssl.SSLWantReadError:
                yield EVENT_READ
            except ssl.SSLWantWriteError:
                yield EVENT_WRITE
            else:
                return secured
    except ssl.SSLCertVerificationError as error:
        raise NotSent(f"TLS not trusted: {server_name} at {peer.name}: {error.verify_message or error}") from error
    except (OSError, ValueError) as error:
        message = _tls_message(error) if isinstance(error, OSError) else str(error)
        raise NotSent(f"TLS failed: {server_name} at {peer.name}: {message}") from error


def _tls_message(error: OSError) -> str:
    if isinstance(error, ssl.SSLEOFError):
        return "closed without a TLS close_notify"
    if isinstance(error, ssl.SSLError):
        return (error.reason or describe(error)).replace("_", " ").lower()
    return describe(error)


def _signed(delivery: Delivery, terms: Terms) -> tuple[str, bytes]:
    request = delivery.sign()
    base = terms.route.base
    try:
        return request.method, serialise(request, host=base.authority, scheme=base.scheme, prefix=base.prefix)
    except BackJobError as error:
        raise NotSent(f"the request can't be serialised: {error}") from error


def _write(
    line: Line, sock: socket.socket, payload: bytes, incoming: _Incoming
) -> Generator[int, None, Response | None]:
    """Write everything, and read meanwhile: a server may respond before it has read the whole request."""
    view = memoryview(payload)
    while view:
        try:
            sent = sock.send(view)
        except ssl.SSLWantReadError:
            yield EVENT_READ
        except (BlockingIOError, ssl.SSLWantWriteError):
            yield EVENT_READ | EVENT_WRITE
            response = incoming.read()
            if response is not None:
                return response
        except (BrokenPipeError, ConnectionResetError):
            if not line.written:
                raise
            # The peer has closed, but perhaps it sent a response before.
            return None
        else:
            line.written = True
            view = view[sent:]
    return None


class _Incoming:
    """Reads the response. It creates the parser with the first bytes, since a waiting job should need little memory."""

    __slots__ = ("_method", "_reader", "_sock", "_terms")

    def __init__(self, sock: socket.socket, method: str, terms: Terms) -> None:
        self._sock = sock
        self._method = method
        self._terms = terms
        self._reader: Reader | None = None

    def read(self) -> Response | None:
        """Read one chunk of what has arrived; return the response if that completes it."""
        while True:
            try:
                data = self._sock.recv(_CHUNK)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return None
            if self._reader is None:
                self._reader = Reader(
                    self._method, max_response=self._terms.max_response, max_header=self._terms.max_header
                )
            response = self._reader.receive(data)
            # The selector reports no event for bytes that TLS has already decrypted.
            if response is not None or not (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()):
                return response
