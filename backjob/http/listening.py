"""The server's own socket, as a request shows it. An application learns its address from nothing else."""

from __future__ import annotations

import socket
from typing import Any, Final, NamedTuple

from backjob.errors import AddressUnknown
from backjob.http.addresses import learnt_base_url

NO_SOCKET: Final = "the server does not show the socket that it listens on"
TEST_CLIENT: Final = "the request comes from a test client, not from a server"


class Listener(NamedTuple):
    """The family and the ``getsockname()`` of the server's socket. ``tls``: whether it is encrypted; None: unknown."""

    family: int
    name: Any
    tls: bool | None = None

    @property
    def is_unix(self) -> bool:
        """Whether it is a unix socket."""
        return self.family == getattr(socket, "AF_UNIX", None)

    @property
    def port(self) -> int | None:
        """The TCP port, or None."""
        return None if self.is_unix else int(self.name[1])

    @property
    def base_urls(self) -> tuple[str, ...]:
        """The base URLs to try. If it is unknown whether the socket is encrypted: first without TLS, then with it.

        Raises `AddressUnknown` unless it is an IP address with a port.
        """
        schemes = (False, True) if self.tls is None else (self.tls,)
        return tuple(learnt_base_url(self.name, self.family, tls=tls) for tls in schemes)


def listener_of_socket(connection: Any, *, tls: bool | None = None) -> Listener:
    """Return the listener that accepted a connection: the connection's own end has the same address and port.

    ``tls``: whether it is encrypted; None: the type of the socket says so. Raises `AddressUnknown` if there is no
    connection (None), or if the server has closed it already.
    """
    if connection is None:
        raise AddressUnknown(NO_SOCKET)
    try:
        name = connection.getsockname()
    except OSError as error:
        raise AddressUnknown(f"the connection of this request is closed ({error})") from None
    # Not isinstance(SSLSocket): gevent and eventlet have classes of their own.
    return Listener(connection.family, name, hasattr(connection, "getpeercert") if tls is None else tls)


def listener_at(host: str, port: int) -> Listener:
    """Return the listener at this IP address. Whether it is encrypted is unknown, because the server does not show it."""
    return Listener(socket.AF_INET6 if ":" in host else socket.AF_INET, (host, port))
