from __future__ import annotations

import h11
import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from backjob.errors import ConnectionLost, InvalidRequest
from backjob.http.wire import Reader, serialise
from backjob.model import Request, Response

SECRET = "secret-session"


def out(request: Request, prefix: str = "") -> bytes:
    return serialise(request, host="example.com", scheme="https", prefix=prefix)


@frozen
class Arrived:
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    ended: bool

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


def arrived(data: bytes) -> Arrived:
    """Parse the bytes as an independent server does; they must end with the request."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    head = connection.next_event()
    assert isinstance(head, h11.Request)
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += bytes(event.data)
    return Arrived(
        head.method.decode(),
        head.target.decode(),
        tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers),
        body,
        isinstance(event, h11.EndOfMessage) and connection.trailing_data == (b"", False),
    )


# --- requests -------------------------------------------------------------------------------------------------------


def test_a_request_is_serialised_to_exactly_these_bytes() -> None:
    request = Request("CHICKEN", "/a%7E%2F?x=%2f&y", (("Cookie", "a=b"), ("X-Odd", "caf\xe9")), b"egg")
    assert out(request) == (
        b"CHICKEN /a%7E%2F?x=%2f&y HTTP/1.1\r\n"
        b"Host: example.com\r\n"
        b"X-Forwarded-Proto: https\r\n"
        b"Connection: close\r\n"
        b"Content-Length: 3\r\n"
        b"Cookie: a=b\r\n"
        b"X-Odd: caf\xe9\r\n"
        b"\r\n"
        b"egg"
    )


def test_the_prefix_precedes_the_target() -> None:
    assert out(Request("GET", "/work?x=1"), "/app%20one").startswith(b"GET /app%20one/work?x=1 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("method", "length"),
    [("GET", []), ("HEAD", []), ("DELETE", []), ("OPTIONS", []), ("POST", ["0"]), ("PUT", ["0"]), ("CHICKEN", ["0"])],
)
def test_an_empty_body_has_a_content_length_if_the_method_allows_content(method: str, length: list[str]) -> None:
    there = arrived(out(Request(method, "/")))
    assert there.header("content-length") == length
    assert there.ended


def test_a_request_may_have_a_host_of_its_own() -> None:
    assert arrived(out(Request("GET", "/"))).header("host") == ["example.com"]
    assert arrived(out(Request("GET", "/", (("Host", "shop.example"),)))).header("host") == ["shop.example"]


def test_a_get_with_a_body_has_a_content_length() -> None:
    there = arrived(out(Request("GET", "/", (), b"unusual")))
    assert (there.header("content-length"), there.body, there.ended) == (["7"], b"unusual", True)


@pytest.mark.parametrize(
    ("name", "value", "stays"),
    [
        ("CONNECTION", "keep-alive", ["close"]),
        ("Content-length", "9", ["3"]),
        ("Transfer-Encoding", "chunked", []),
        ("x-forwarded-proto", "http", ["https"]),
    ],
)
def test_header_fields_of_the_request_never_contradict_those_of_the_connection(
    name: str, value: str, stays: list[str]
) -> None:
    there = arrived(out(Request("POST", "/", ((name, value), ("X-Other", "1")), b"abc")))
    assert there.header(name.lower()) == stays
    assert (there.header("x-other"), there.body, there.ended) == (["1"], b"abc", True)


@pytest.mark.parametrize(
    ("request_", "argument"),
    [
        (Request("GE T", "/"), "method"),
        (Request("", "/"), "method"),
        (Request("G\xcbT", "/"), "method"),
        (Request("CONNECT", "/"), "method"),
        (Request("GET", "/a b"), "target"),
        (Request("GET", "/a\r\nX: y"), "target"),
        (Request("GET", "/\xe9"), "target"),
        (Request("GET", "/", (("Cookie", f"{SECRET}\r\nX: y"),)), "headers"),
        (Request("GET", "/", (("Cookie", f"{SECRET}\0"),)), "headers"),
        (Request("GET", "/", (("Cookie", f"{SECRET}\u20ac"),)), "headers"),
        (Request("GET", "/", (("X y", SECRET),)), "headers"),
        (Request("GET", "/", (("", SECRET),)), "headers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_invalid_part_is_named_without_its_value(request_: Request, argument: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        out(request_)
    assert caught.value.argument == argument
    assert SECRET not in str(caught.value)
    shown_with_it = caught.value.__cause__ if caught.value.__suppress_context__ else caught.value.__context__
    assert shown_with_it is None


def test_an_invalid_host_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"^host: "):
        serialise(Request("GET", "/"), host="a\r\nb", scheme="http")


_TOKEN = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=12)
_VISIBLE = st.sampled_from([chr(n) for n in (*range(0x20, 0x7F), *range(0xA0, 0x100))])
_VALUE = st.text(_VISIBLE, max_size=20).map(str.strip)


@given(
    method=_TOKEN,
    target=st.text([chr(n) for n in range(0x21, 0x7F)], max_size=30).map(lambda text: "/" + text),
    headers=st.lists(st.tuples(_TOKEN.map(lambda name: "x-" + name), _VALUE), max_size=5),
    body=st.binary(max_size=50),
)
def test_a_server_reads_any_serialised_request_back(
    method: str, target: str, headers: list[tuple[str, str]], body: bytes
) -> None:
    there = arrived(out(Request(method, target, tuple(headers), body)))
    assert (there.method, there.target, there.body, there.ended) == (method, target, body, True)
    ours = {"host", "x-forwarded-proto", "connection", "content-length"}
    assert [field for field in there.headers if field[0] not in ours] == [(n.lower(), v) for n, v in headers]


# --- responses ------------------------------------------------------------------------------------------------------


def read(*chunks: bytes, method: str = "GET", max_response: int = 65536, max_header: int = 65536) -> Response | None:
    reader = Reader(method, max_response=max_response, max_header=max_header)
    response: Response | None = None
    for chunk in chunks:
        assert response is None, "nothing may follow a complete response"
        response = reader.receive(chunk)
    return response


HEADERS = (("content-type", "text/plain"),)
COMPLETE: dict[str, tuple[str, bytes, bool, Response]] = {
    # name: method, bytes, whether closing the connection ends the response, response
    "length": ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", False, Response(200, "OK", (), b"abc")),
    "empty": ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", False, Response(200, "OK")),
    "no reason": ("GET", b"HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n", False, Response(404)),
    "no reason, no space": ("GET", b"HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n", False, Response(404)),
    "bare line feeds": ("GET", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", False, Response(200, "OK", (), b"hi")),
    "1xx": (
        "GET",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 1\r\n\r\n.",
        False,
        Response(302, "Found", (("location", "/login"),), b"."),
    ),
    "204": ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", False, Response(204, "No Content")),
    "304": ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", False, Response(304, "Not Modified")),
    "HEAD": ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", False, Response(200, "OK")),
    "a custom method": ("EGG", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", False, Response(200, "OK", (), b"a")),
    "chunks": (
        "GET",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n",
        False,
        Response(200, "OK", (), b"abcde"),
    ),
    "until the end": ("GET", b"HTTP/1.1 200 OK\r\n\r\nabc", True, Response(200, "OK", (), b"abc")),
    "HTTP/1.0": (
        "GET",
        b"HTTP/1.0 500 Internal Server Error\r\nContent-Type: text/plain\r\n\r\n",
        True,
        Response(500, "Internal Server Error", HEADERS),
    ),
}


def framed(response: Response | None) -> tuple[int, str, bytes, bool, tuple[tuple[str, str], ...]] | None:
    if response is None:
        return None
    headers = tuple(f for f in response.headers if f[0] not in ("content-length", "transfer-encoding"))
    return response.status, response.reason, response.body, response.truncated, headers


@pytest.mark.parametrize("name", COMPLETE)
def test_a_complete_response_is_parsed_wherever_it_is_split(name: str) -> None:
    method, data, at_end, expected = COMPLETE[name]
    end = [b""] if at_end else []
    assert framed(read(data, *end, method=method)) == framed(expected)
    assert framed(read(*(bytes([byte]) for byte in data), *end, method=method)) == framed(expected)
    for cut in range(1, len(data)):
        assert framed(read(data[:cut], data[cut:], *end, method=method)) == framed(expected)


@pytest.mark.parametrize("name", COMPLETE)
def test_a_part_of_a_response_is_not_a_response(name: str) -> None:
    method, data, at_end, _ = COMPLETE[name]
    body_begins = data.rindex(b"\r\n\r\n") + 4 if at_end else len(data)
    for cut in range(body_begins):
        assert read(data[:cut] or b"HTTP", method=method) is None
        with pytest.raises(ConnectionLost):
            read(*([data[:cut]] if cut else []), b"", method=method)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "closed without a response"),
        (b"HTTP/1.1 200 OK\r\nCont", "closed within the head of the response"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "closed within the head of the response"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
            "ended before its body was complete: .*3 bytes, expected 5",
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "ended before its body was complete"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "ended before its body was complete"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "is not HTTP/1"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "is not HTTP/1"),
        (b"HTTP/2 200 OK\r\n\r\n", "is not HTTP/1"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "is not HTTP/1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "is not HTTP/1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", "is not HTTP/1"),
        (b"HTTP/1.1 099 Early\r\n\r\n", "is not HTTP/1"),
    ],
)
def test_an_invalid_response_is_a_lost_connection_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ConnectionLost, match=reason):
        read(*([data] if data else []), b"")


def test_an_error_quotes_no_header_of_the_response() -> None:
    with pytest.raises(ConnectionLost) as caught:
        read(f"HTTP/1.1 200 OK\r\nSet Cookie: {SECRET}\r\n\r\n".encode())
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("line", [b"X-Filler: " + b"x" * 90 + b"\r\n", b"x" * 100])
def test_an_endless_head_is_an_error_at_the_limit(line: bytes) -> None:
    head = [b"HTTP/1.1 200 OK\r\n", *[line] * 10]
    assert read(*head[:9], max_header=1000) is None
    with pytest.raises(ConnectionLost, match="longer than the limit"):
        read(*head, max_header=1000)


@pytest.mark.parametrize(("length", "kept", "truncated"), [(99, 99, False), (100, 100, False), (101, 100, True)])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_a_body_is_kept_up_to_the_limit_and_read_to_its_end(
    length: int, kept: int, truncated: bool, chunk: int
) -> None:
    body = bytes(n % 251 for n in range(length))
    data = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + body
    response = read(*(data[at : at + chunk] for at in range(0, len(data), chunk)), max_response=100)
    assert response is not None
    assert (response.body, response.truncated) == (body[:kept], truncated)


def test_a_limit_of_zero_keeps_no_body() -> None:
    response = read(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", max_response=0)
    assert response is not None
    assert (response.body, response.truncated) == (b"", True)


def ends_well(chunks: list[bytes], method: str) -> bool:
    """Feed the chunks and then the end: the outcome must be a Response or ConnectionLost."""
    reader = Reader(method, max_response=20, max_header=200)
    try:
        for chunk in [chunk for chunk in chunks if chunk]:
            if reader.receive(chunk) is not None:
                return True
        return reader.receive(b"") is not None
    except ConnectionLost as lost:
        return bool(lost.reason)


_FRAGMENT = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 ",
        b"HTTP/1.1 1",
        b"\r\n",
        b"\n",
        b"\r\n\r\n",
        b"Content-Length: ",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: upgrade\r\n",
        b"Upgrade: x\r\n",
        b"0\r\n\r\n",
        b"5\r\nabcde\r\n",
        b"99999999999999999999",
        b" ",
        b":",
        b"\0",
    ]
)
_PIECES = st.lists(st.one_of(_FRAGMENT, st.binary(max_size=20)), max_size=12)
_METHODS = st.sampled_from(["GET", "HEAD", "CHICKEN"])


@given(chunks=_PIECES, method=_METHODS)
def test_arbitrary_bytes_give_a_response_or_a_lost_connection(chunks: list[bytes], method: str) -> None:
    assert ends_well(chunks, method)


@pytest.mark.nightly
@settings(max_examples=5_000, deadline=None)
@given(chunks=_PIECES, method=_METHODS)
def test_arbitrary_bytes_give_a_response_or_a_lost_connection_for_long(chunks: list[bytes], method: str) -> None:
    assert ends_well(chunks, method)
