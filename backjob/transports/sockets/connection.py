"""One connection from the connect to the complete answer, as a generator over a non-blocking socket.

It yields the `selectors` events that it waits for, and is resumed when one of them has come. Whoever drives it owns
the selector, the deadlines and the closing of the socket.
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

__all__ = ["Line", "Steps", "Terms", "Unreachable", "converse", "describe"]

Steps: TypeAlias = Generator[int, None, Response]

_CHUNK: Final = 1 << 16
_IN_PROGRESS: Final = frozenset({errno.EINPROGRESS, errno.EINTR, errno.EALREADY})
_OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})


class Unreachable(NotSent):
    """No connection to this address; another address of the same host may do."""


@frozen
class Terms:
    """What holds for every connection of a transport. ``context`` is None where TLS is not spoken."""

    route: Route
    context: ssl.SSLContext | None
    max_response: int
    max_header: int


@define(eq=False)
class Line:
    """The socket of a connection, and how far it has come.

    ``established``: connected, TLS included, so that the time limit for connecting has been kept. ``written``: bytes of
    the request may have left, so that whatever happens now, it may have arrived.
    """

    sock: socket.socket | None = None
    established: bool = False
    written: bool = False

    def hang_up(self) -> None:
        """Close at once. The shutdown tells the peer even while a forked child still holds a copy of the descriptor."""
        if self.sock is None:
            return
        if isinstance(self.sock, ssl.SSLSocket) and self.established:
            # RFC 8446, section 6.1: a close_notify goes out first. Its answer isn't waited for.
            with contextlib.suppress(OSError, ValueError):
                self.sock.unwrap()
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.drop()

    def drop(self) -> None:
        """Close this process's copy of the descriptor, and say nothing to the peer."""
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.close()


def describe(error: OSError) -> str:
    """The operating system's words for an error, without its number."""
    return error.strerror or type(error).__name__


def converse(line: Line, peer: Peer, terms: Terms, delivery: Delivery) -> Steps:
    """Connect, sign, send and read until the answer is complete, which is the generator's value.

    The signature is made once the connection stands. Raises `Unreachable`, `NotSent`, `ConnectionLost`, and whatever
    ``delivery.sign()`` raises.
    """
    sock = yield from _connect(line, peer)
    if terms.context is not None:
        sock = yield from _secure(line, sock, peer, terms.context, terms.route.server_name)
    line.established = True
    method, payload = _signed(delivery, terms)
    del delivery  # A job may take hours: what it no longer needs goes.
    intake = _Intake(sock, method, terms)
    try:
        response = yield from _write(line, sock, payload, intake)
        del payload
        while response is None:
            yield EVENT_READ
            response = intake.take()
    except OSError as error:
        reason = f"the connection broke: {_tls_words(error)}"
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
        raise Unreachable(_why_not(code, peer))
    if sock.getsockname() == peer.address and peer.family != socket.AF_UNIX:
        # TCP's simultaneous open: nobody listens on that port, and this very socket was given it as its own.
        raise Unreachable(f"connection refused: {peer.name}")
    return sock


def _is_connected(sock: socket.socket) -> bool:
    # On loopback a connection mostly stands before the call returns: this saves a turn of the selector.
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _why_not(code: int, peer: Peer) -> str:
    if code == errno.ECONNREFUSED:
        return f"connection refused: {peer.name}"
    if code == errno.ETIMEDOUT:
        return f"timed out: no connection to {peer.name}"
    if code == errno.EAGAIN and peer.family == socket.AF_UNIX:
        return f"cannot connect to {peer.name}: the server's queue of connections is full"
    return f"cannot connect to {peer.name}: {os.strerror(code)}"


def _secure(
    line: Line, sock: socket.socket, peer: Peer, context: ssl.SSLContext, server_name: str
) -> Generator[int, None, ssl.SSLSocket]:
    try:
        # A peer that vanishes without close_notify must not pass for the end of a body (RFC 9112, section 9.8).
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
        words = _tls_words(error) if isinstance(error, OSError) else str(error)
        raise NotSent(f"TLS failed: {server_name} at {peer.name}: {words}") from error


def _tls_words(error: OSError) -> str:
    if isinstance(error, ssl.SSLEOFError):
        return "closed without saying so by TLS"
    if isinstance(error, ssl.SSLError):
        return (error.reason or describe(error)).replace("_", " ").lower()
    return describe(error)


def _signed(delivery: Delivery, terms: Terms) -> tuple[str, bytes]:
    request = delivery.sign()
    base = terms.route.base
    try:
        return request.method, serialise(request, host=base.authority, scheme=base.scheme, prefix=base.prefix)
    except BackJobError as error:
        raise NotSent(f"cannot be put on the wire: {error}") from error


def _write(line: Line, sock: socket.socket, payload: bytes, intake: _Intake) -> Generator[int, None, Response | None]:
    """Write it all, and listen meanwhile: a server may answer a request that it has not read to its end."""
    view = memoryview(payload)
    while view:
        try:
            sent = sock.send(view)
        except ssl.SSLWantReadError:
            yield EVENT_READ
        except (BlockingIOError, ssl.SSLWantWriteError):
            yield EVENT_READ | EVENT_WRITE
            response = intake.take()
            if response is not None:
                return response
        except (BrokenPipeError, ConnectionResetError):
            if not line.written:
                raise
            # The peer has closed, perhaps after an answer that is still to be read.
            return None
        else:
            line.written = True
            view = view[sent:]
    return None


class _Intake:
    """What has come back. Its reader is made with the first bytes: until then a job waits, and should cost little."""

    __slots__ = ("_method", "_reader", "_sock", "_terms")

    def __init__(self, sock: socket.socket, method: str, terms: Terms) -> None:
        self._sock = sock
        self._method = method
        self._terms = terms
        self._reader: Reader | None = None

    def take(self) -> Response | None:
        """Read one piece of what stands to be read; the response if that completes it."""
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
            # Bytes that TLS has decrypted already raise no event any more.
            if response is not None or not (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()):
                return response
