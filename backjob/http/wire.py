"""Serialises requests and parses responses of HTTP/1.1 (RFC 9112), with h11. Sans-IO: no sockets and no clock."""

from __future__ import annotations

from typing import Final

import h11

from backjob.errors import ConnectionLost, InvalidRequest
from backjob.model import Request, Response

__all__ = ["MAX_HEADER", "MAX_RESPONSE", "Reader", "fields_to_send", "serialise"]

MAX_RESPONSE: Final = 1 << 16
"""Bytes of a response body that are kept."""

MAX_HEADER: Final = 1 << 16
"""Maximum bytes of a response's status line and header fields."""

# Set below; a second one could contradict it (RFC 9112, section 6.3: request smuggling).
_OWN_FIELDS: Final = frozenset({"host", "connection", "content-length", "transfer-encoding", "x-forwarded-proto"})

# RFC 9110, section 8.6: with other methods, servers may expect content, so "Content-Length: 0" is sent.
_BODILESS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "DELETE"})


def serialise(request: Request, *, host: str, scheme: str, prefix: str = "") -> bytes:
    """Return the bytes of a request: head and body, never chunked, with ``Connection: close``.

    ``host`` is the value of Host, unless the request has one, ``scheme`` that of X-Forwarded-Proto. The request target is
    ``prefix`` and ``request.target``, byte for byte. Other header fields that are set here (framing, Connection,
    X-Forwarded-Proto) are dropped from the request. Raises `InvalidRequest`, without any header value, for a request that
    HTTP does not allow.
    """
    fields = fields_to_send(request, host, scheme)
    fields.insert(2, ("Connection", "close"))
    if request.method == "CONNECT":
        raise InvalidRequest("method", "CONNECT is for proxies, not for an application")
    try:
        head = _event(request.method, prefix + request.target, fields)
    except (h11.LocalProtocolError, UnicodeEncodeError):
        # Not chained: the message of h11 contains the value, which may be a credential.
        raise InvalidRequest(*_culprit(request, prefix, fields[0][1])) from None
    lines = [b"%s: %s\r\n" % field for field in head.headers.raw_items()]
    return b"".join([head.method, b" ", head.target, b" HTTP/1.1\r\n", *lines, b"\r\n", request.body])


def fields_to_send(request: Request, host: str, scheme: str | None = None) -> list[tuple[str, str]]:
    """Return the fields that an application gets, for a client that takes fields; their values are Latin-1.

    First there is Host, which is ``host`` unless the request has one; then X-Forwarded-Proto, if there is a ``scheme``, and
    with a body Content-Length. Other fields that `serialise` sets are dropped from the request.
    """
    fields = [("Host", request.header("host") or host)]
    if scheme is not None:
        fields.append(("X-Forwarded-Proto", scheme))
    if request.body or request.method not in _BODILESS:
        fields.append(("Content-Length", str(len(request.body))))
    return fields + _forwarded_fields(request)


def _forwarded_fields(request: Request) -> list[tuple[str, str]]:
    return [(name, value) for name, value in request.headers if name.lower() not in _OWN_FIELDS]


def _event(method: str, target: str, fields: list[tuple[str, str]]) -> h11.Request:
    return h11.Request(
        method=method.encode("ascii"),
        target=target.encode("ascii"),
        headers=[(name.encode("ascii"), value.encode("latin-1")) for name, value in fields],
    )


def _is_allowed(method: str, target: str, fields: list[tuple[str, str]]) -> bool:
    try:
        _event(method, target, fields)
    except (h11.LocalProtocolError, UnicodeEncodeError):
        return False
    return True


def _culprit(request: Request, prefix: str, host: str) -> tuple[str, str]:
    """Return which argument HTTP does not allow, and why, by trying each one alone."""
    minimal = [("Host", "localhost")]
    if not _is_allowed(request.method, "/", minimal):
        return "method", f"{request.method!r} is not a token (RFC 9110, section 9.1)"
    if not _is_allowed("GET", prefix + request.target, minimal):
        return "target", "contains characters that must be percent-encoded (RFC 9112, section 3.2.1)"
    if not _is_allowed("GET", "/", [("Host", host)]):
        return "host", f"{host!r} is not a host (RFC 9110, section 7.2)"
    refused = [
        name for name, value in _forwarded_fields(request) if not _is_allowed("GET", "/", [*minimal, (name, value)])
    ]
    return "headers", f"contain invalid names or values (RFC 9110, section 5.5): {', '.join(map(repr, refused))}"


# h11 needs the request to find the end of its response (RFC 9112, section 6.3); only HEAD makes a difference.
_ANY_REQUEST: Final = _event("GET", "/", [("Host", "localhost"), ("Connection", "close")])
_HEAD_REQUEST: Final = _event("HEAD", "/", [("Host", "localhost"), ("Connection", "close")])


class Reader:
    """Parses one response, whose bytes arrive in chunks of any size.

    ``method`` is that of the request: a response to HEAD has no body. The first ``max_response`` bytes of the body are
    kept; the rest is dropped and the response marked as truncated. A head of more than ``max_header`` bytes is an error.
    """

    __slots__ = ("_body", "_connection", "_head", "_max_response", "_started", "_truncated")

    def __init__(self, method: str, *, max_response: int = MAX_RESPONSE, max_header: int = MAX_HEADER) -> None:
        self._max_response = max_response
        self._head: h11.Response | None = None
        self._body = bytearray()
        self._truncated = False
        self._started = False
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=max_header)
        self._connection.send(_HEAD_REQUEST if method == "HEAD" else _ANY_REQUEST)

    def receive(self, data: bytes) -> Response | None:
        """Return the response if these bytes complete it, otherwise None. Empty ``data``: the peer closed.

        Raises `ConnectionLost` if the response can't become complete. Do not call it again after either.
        """
        if not data and self._head is None:
            raise ConnectionLost(
                "the connection closed within the head of the response"
                if self._started
                else "the connection closed without a response"
            )
        self._started = True
        try:
            self._connection.receive_data(data)
            return self._drain()
        except h11.ProtocolError as error:
            raise ConnectionLost(self._explain(error)) from None

    def _drain(self) -> Response | None:
        while True:
            event = self._connection.next_event()
            if event is h11.NEED_DATA:
                return None
            if isinstance(event, h11.Response):
                self._head = event
            elif isinstance(event, h11.Data):
                self._keep(event.data)
            elif isinstance(event, h11.EndOfMessage) and self._head is not None:
                return self._response(self._head)

    def _keep(self, data: bytes | bytearray | memoryview) -> None:
        room = self._max_response - len(self._body)
        self._body += data[:room]
        if len(data) > room:
            self._truncated = True

    def _response(self, head: h11.Response) -> Response:
        return Response(
            status=head.status_code,
            reason=head.reason.decode("latin-1"),
            headers=tuple(
                [
                    (name.decode("latin-1").lower(), value.decode("latin-1"))
                    for name, value in head.headers.raw_items()  # the items themselves pass three functions each
                ]
            ),
            body=bytes(self._body),
            truncated=self._truncated,
        )

    def _explain(self, error: h11.ProtocolError) -> str:
        # After the colon h11 quotes the invalid line, which may be a Set-Cookie.
        problem = str(error).partition(":")[0]
        if self._head is not None:
            return f"the response ended before its body was complete: {problem}"
        if getattr(error, "error_status_hint", None) == 431:
            return "the head of the response is longer than the limit"
        return f"the response is not HTTP/1: {problem}"
