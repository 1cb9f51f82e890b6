"""Parses and checks base URLs and addresses. Nothing here resolves names or connects."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from typing import Final, TypeAlias
from urllib.parse import SplitResult, urlsplit

from attrs import frozen

from backjob.errors import AddressUnknown, InvalidRequest

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_WILDCARDS: Final = frozenset({"0.0.0.0", "::", "*"})  # noqa: S104 - compared here, never bound
_LOOPBACKS: Final = ("127.0.0.1", "::1")
_MAX_SOCKET_PATH: Final = 107
_REGISTERED_NAME: Final = re.compile(r"[A-Za-z0-9._~*-]+")


@frozen
class TCPAddress:
    """A port, and a host: a name, or an IP address without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"

    @property
    def candidates(self) -> tuple[TCPAddress, ...]:
        """The addresses to try, in order. A wildcard can only be bound, so it becomes 127.0.0.1 and then ::1."""
        if self.host in _WILDCARDS:
            return tuple(TCPAddress(host, self.port) for host in _LOOPBACKS)
        return (self,)


@frozen
class UnixAddress:
    """The path of a unix socket."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address: TypeAlias = TCPAddress | UnixAddress


@frozen
class BaseURL:
    """The application as its users see it.

    ``authority`` is the value of Host: without a default port, and with ``localhost`` for a wildcard. ``prefix`` is the
    part of the path that a proxy in front of the application strips: "", or "/…" without a slash at its end.
    """

    scheme: str
    address: TCPAddress
    authority: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.prefix}"


@frozen
class Route:
    """Where and how to connect. ``server_name`` is the name that the server's certificate must match."""

    base: BaseURL
    address: Address
    tls: bool
    server_name: str


def parse_base_url(url: str) -> BaseURL:
    """Parse an absolute ``http:`` or ``https:`` URL of host, port and path. Raises `InvalidRequest` for others."""
    name = "base_url"
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise InvalidRequest(name, "must not have spaces, control characters or backslashes")
    parts = _split(name, url)
    if parts.scheme not in _DEFAULT_PORTS:
        raise InvalidRequest(name, "must begin with http:// or https://; for a unix socket see connect_to")
    if "?" in url or "#" in url:
        raise InvalidRequest(name, "must not have a query or a fragment")
    address = _tcp_address(name, parts, _DEFAULT_PORTS[parts.scheme])
    prefix = parts.path.rstrip("/")
    if not prefix.isascii():
        raise InvalidRequest(name, "its path must be percent-encoded")
    if any(segment in (".", "..") for segment in prefix.lower().replace("%2e", ".").split("/")):
        raise InvalidRequest(name, "its path must not have dot segments")
    shown = "localhost" if address.host in _WILDCARDS else _bracketed(address.host)
    authority = shown if address.port == _DEFAULT_PORTS[parts.scheme] else f"{shown}:{address.port}"
    return BaseURL(parts.scheme, address, authority, prefix)


def origin_of(name: str, url: str) -> tuple[str, TCPAddress]:
    """Return the origin of an ``http:`` or ``https:`` URL: scheme, host and port (RFC 6454, section 4).

    Raises `InvalidRequest`, naming the argument, for other URLs.
    """
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise InvalidRequest(name, "must not have spaces, control characters or backslashes")
    parts = _split(name, url)
    if parts.scheme not in _DEFAULT_PORTS:
        raise InvalidRequest(name, "must begin with http:// or https://")
    return parts.scheme, _tcp_address(name, parts, _DEFAULT_PORTS[parts.scheme])


def parse_connect_to(text: str) -> tuple[Address, bool | None]:
    """Return the address to connect to, and whether to use TLS there: True, False, or None for the base URL's scheme.

    Accepts ``host:port``, ``[::1]:8000``, ``http://host:port``, ``https://host:port`` and ``unix:/path``. Raises
    `InvalidRequest`.
    """
    name = "connect_to"
    if text.startswith("unix:"):
        return UnixAddress(_socket_path(name, text)), False
    if re.search(r"[\x00-\x20\x7f\\?#]", text):
        raise InvalidRequest(name, "must be host:port, http://host:port, https://host:port or unix:/path")
    scheme, separator, _ = text.partition("://")
    if not separator:
        return _tcp_address(name, _bare(name, text), None), None
    if scheme.lower() not in _DEFAULT_PORTS:
        raise InvalidRequest(name, f"has the unknown scheme {scheme!r}; use http, https, unix or none")
    parts = _split(name, text)
    if parts.path not in ("", "/"):
        raise InvalidRequest(name, "must not have a path; a path belongs into base_url")
    return _tcp_address(name, parts, _DEFAULT_PORTS[parts.scheme]), parts.scheme == "https"


def route(base_url: str, connect_to: str | None = None, *, has_tls_context: bool = False) -> Route:
    """Return where to connect for this base URL, and whether to use TLS. Raises `InvalidRequest`.

    With a TLS context, always TLS. Otherwise the scheme in ``connect_to`` decides; a unix socket is without TLS, and a
    bare address takes the base URL's scheme. The certificate must match the host of the base URL in all cases.
    """
    base = parse_base_url(base_url)
    address: Address = base.address
    tls: bool | None = None
    if connect_to is not None:
        address, tls = parse_connect_to(connect_to)
    if has_tls_context:
        tls = True
    elif tls is None:
        tls = base.scheme == "https"
    server_name = "localhost" if base.address.host in _WILDCARDS else base.address.host
    return Route(base, address, tls, server_name)


def learnt_base_url(sockname: object, family: int, *, tls: bool) -> str:
    """Return the application's base URL from the ``getsockname()`` of its server's socket.

    Wildcards are kept (``http://0.0.0.0:8000``): the transport tries 127.0.0.1 and then ::1. Raises `AddressUnknown` for
    a unix socket, and for anything else that is not an IP address with a port.
    """
    if family == getattr(socket, "AF_UNIX", None):
        raise AddressUnknown("the server listens on a unix socket")
    host, port = _pair(sockname) if family in (socket.AF_INET, socket.AF_INET6) else (None, 0)
    if host is None or not 0 < port < 1 << 16:
        raise AddressUnknown(f"the server's socket {sockname!r} is not an address and a port")
    mapped = ipaddress.IPv6Address(host).ipv4_mapped if family == socket.AF_INET6 else None
    return f"{'https' if tls else 'http'}://{TCPAddress(host if mapped is None else str(mapped), port)}"


def is_ip_literal(host: str) -> bool:
    """Return whether the host is an IP address, which needs no resolver."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _pair(sockname: object) -> tuple[str | None, int]:
    if not isinstance(sockname, tuple) or len(sockname) < 2:
        return None, 0
    host, port = str(sockname[0]), str(sockname[1])
    if not is_ip_literal(host) or not port.isdecimal():
        return None, 0
    return host, int(port)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _split(name: str, url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # its message may repeat a password
        raise InvalidRequest(name, "is not a URL") from None


def _bare(name: str, text: str) -> SplitResult:
    parts = _split(name, f"//{text}")
    if parts.path or not parts.netloc.rpartition("]")[2].partition(":")[2]:
        raise InvalidRequest(name, "must be host:port, http://host:port, https://host:port or unix:/path")
    return parts


def _tcp_address(name: str, parts: SplitResult, default_port: int | None) -> TCPAddress:
    if "@" in parts.netloc:
        raise InvalidRequest(name, "must not have a user or a password")
    try:
        port = parts.port
    except ValueError:
        raise InvalidRequest(name, "its port is not a number from 1 to 65535") from None
    port = default_port if port is None else port
    if not port:
        raise InvalidRequest(name, "its port is not a number from 1 to 65535")
    return TCPAddress(_host(name, parts), port)


def _host(name: str, parts: SplitResult) -> str:
    host = parts.hostname or ""
    if ":" in host:
        if not parts.netloc.startswith("[") or not is_ip_literal(host):
            raise InvalidRequest(name, f"{host!r} is not an IPv6 address in brackets, as in [::1]:8000")
        return host
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise InvalidRequest(name, f"{host!r} is not a host name") from None
    if not _REGISTERED_NAME.fullmatch(host):
        raise InvalidRequest(name, f"{host!r} is not a host name" if host else "has no host")
    return host


def _socket_path(name: str, text: str) -> str:
    path = text.removeprefix("unix:")
    if path.startswith("//"):
        path = path.removeprefix("//")
    if not path.startswith("/") or "\0" in path:
        raise InvalidRequest(name, "must have the absolute path of a unix socket: unix:/run/app.sock")
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise InvalidRequest(name, f"the path of a unix socket must not have more than {_MAX_SOCKET_PATH} bytes")
    return path
