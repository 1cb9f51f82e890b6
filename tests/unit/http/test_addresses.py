from __future__ import annotations

import socket

import pytest

from backjob.errors import AddressUnknown, InvalidRequest
from backjob.http.addresses import (
    TCPAddress,
    UnixAddress,
    is_ip_literal,
    learnt_base_url,
    parse_base_url,
    parse_connect_to,
    route,
)


@pytest.mark.parametrize(
    ("url", "scheme", "address", "authority", "prefix"),
    [
        ("http://127.0.0.1:8000", "http", ("127.0.0.1", 8000), "127.0.0.1:8000", ""),
        ("http://127.0.0.1:8000/", "http", ("127.0.0.1", 8000), "127.0.0.1:8000", ""),
        ("https://example.com:8443/prefix", "https", ("example.com", 8443), "example.com:8443", "/prefix"),
        ("https://example.com/a/b%20c/", "https", ("example.com", 443), "example.com", "/a/b%20c"),
        ("HTTPS://Example.COM:443", "https", ("example.com", 443), "example.com", ""),
        ("http://example.com:443", "http", ("example.com", 443), "example.com:443", ""),
        ("http://example.com:", "http", ("example.com", 80), "example.com", ""),
        ("http://[::1]:8000", "http", ("::1", 8000), "[::1]:8000", ""),
        ("http://my_host:1", "http", ("my_host", 1), "my_host:1", ""),
        ("http://b\xfccher.example", "http", ("xn--bcher-kva.example", 80), "xn--bcher-kva.example", ""),
        ("http://0.0.0.0:8000", "http", ("0.0.0.0", 8000), "localhost:8000", ""),
        ("http://[::]:8000", "http", ("::", 8000), "localhost:8000", ""),
        ("https://*", "https", ("*", 443), "localhost", ""),
    ],
)
def test_a_base_url_is_parsed_into_scheme_host_port_and_prefix(
    url: str, scheme: str, address: tuple[str, int], authority: str, prefix: str
) -> None:
    base = parse_base_url(url)
    assert (base.scheme, base.address, base.authority, base.prefix) == (
        scheme,
        TCPAddress(*address),
        authority,
        prefix,
    )
    assert str(base) == f"{scheme}://{authority}{prefix}"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/relative",
        "example.com",
        "example.com:8000",
        "//example.com",
        "ftp://example.com",
        "unix:/run/app.sock",
        "http://",
        "http:///path",
        "http://:8000",
        "http://user@example.com",
        "http://user:password@example.com",
        "http://@example.com",
        "http://example.com?x=1",
        "http://example.com/?",
        "http://example.com/#top",
        "http://example.com:0",
        "http://example.com:65536",
        "http://example.com:x",
        "http://example.com:-1",
        "http://exa mple.com",
        "http://example.com/a\r\nX: y",
        "http://example.com\\@evil.example",
        "http://example.com/caf\xe9",
        "http://example.com/../up",
        "http://example.com/%2E%2e/up",
        "http://[::1",
        "http://[nonsense]",
        "http://exa<mple",
        "http://a..b\xe9.example",
    ],
)
def test_an_invalid_base_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_base_url(url)
    assert caught.value.argument == "base_url"


def test_the_error_for_a_base_url_does_not_show_its_password() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_base_url("http://user:hunter2@example.com")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "address", "tls"),
    [
        ("127.0.0.1:8000", TCPAddress("127.0.0.1", 8000), None),
        ("app:8000", TCPAddress("app", 8000), None),
        ("[::1]:8000", TCPAddress("::1", 8000), None),
        ("http://app:8000", TCPAddress("app", 8000), False),
        ("http://app", TCPAddress("app", 80), False),
        ("https://app/", TCPAddress("app", 443), True),
        ("HTTPS://[::1]:8443", TCPAddress("::1", 8443), True),
        ("0.0.0.0:8000", TCPAddress("0.0.0.0", 8000), None),
        ("unix:/run/app.sock", UnixAddress("/run/app.sock"), False),
        ("unix:///run/app.sock", UnixAddress("/run/app.sock"), False),
        ("unix:/run/with space?#.sock", UnixAddress("/run/with space?#.sock"), False),
    ],
)
def test_connect_to_is_parsed_into_an_address_and_tls(
    text: str, address: TCPAddress | UnixAddress, tls: bool | None
) -> None:
    assert parse_connect_to(text) == (address, tls)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "app",
        "app:",
        ":8000",
        "app:x",
        "app:0",
        "app:65536",
        "::1:8000",
        "[::1]",
        "[::1]:",
        "[::1",
        "app:8000/path",
        "http://app:8000/path",
        "http://app:8000?x",
        "user@app:8000",
        "http://user:pass@app:8000",
        "ftp://app:8000",
        "://app:8000",
        "unix:relative.sock",
        "unix:",
        "unix://host/path",
        "unix:/a\0b",
        "unix:/" + "x" * 107,
        "app:80 00",
    ],
)
def test_an_invalid_connect_to_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_connect_to(text)
    assert caught.value.argument == "connect_to"


@pytest.mark.parametrize(
    ("base_url", "connect_to", "context", "tls"),
    [
        ("http://example.com", None, False, False),
        ("https://example.com", None, False, True),
        ("http://example.com", None, True, True),
        ("https://example.com", "127.0.0.1:8000", False, True),
        ("http://example.com", "127.0.0.1:8000", False, False),
        ("https://example.com", "http://127.0.0.1:8000", False, False),
        ("http://example.com", "https://127.0.0.1:8443", False, True),
        ("http://example.com", "http://127.0.0.1:8000", True, True),
        ("https://example.com", "unix:/run/app.sock", False, False),
        ("https://example.com", "unix:/run/app.sock", True, True),
    ],
)
def test_tls_depends_on_the_context_then_connect_to_then_the_base_url(
    base_url: str, connect_to: str | None, context: bool, tls: bool
) -> None:
    assert route(base_url, connect_to, has_tls_context=context).tls is tls


def test_the_certificate_must_match_the_base_urls_host_with_any_connect_to() -> None:
    where = route("https://example.com/app", "127.0.0.1:8443")
    assert (where.server_name, where.address, where.base.authority) == (
        "example.com",
        TCPAddress("127.0.0.1", 8443),
        "example.com",
    )
    assert route("https://0.0.0.0:8443").server_name == "localhost"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "*"])
def test_a_wildcard_becomes_both_loopback_addresses(host: str) -> None:
    assert TCPAddress(host, 8000).candidates == (TCPAddress("127.0.0.1", 8000), TCPAddress("::1", 8000))


def test_any_other_host_is_the_only_candidate() -> None:
    assert TCPAddress("localhost", 8000).candidates == (TCPAddress("localhost", 8000),)


def test_addresses_are_printed_as_they_are_written() -> None:
    assert [str(TCPAddress("::1", 1)), str(TCPAddress("app", 2)), str(UnixAddress("/s"))] == [
        "[::1]:1",
        "app:2",
        "unix:/s",
    ]


@pytest.mark.parametrize(
    ("sockname", "family", "tls", "url"),
    [
        (("127.0.0.1", 8000), socket.AF_INET, False, "http://127.0.0.1:8000"),
        (("127.0.0.1", "8000"), socket.AF_INET, False, "http://127.0.0.1:8000"),
        (("10.0.0.5", 443), socket.AF_INET, True, "https://10.0.0.5:443"),
        (("0.0.0.0", 8000), socket.AF_INET, False, "http://0.0.0.0:8000"),
        (("::1", 8000, 0, 0), socket.AF_INET6, False, "http://[::1]:8000"),
        (("::", 8000, 0, 0), socket.AF_INET6, False, "http://[::]:8000"),
        (("::ffff:127.0.0.1", 8000, 0, 0), socket.AF_INET6, False, "http://127.0.0.1:8000"),
    ],
)
def test_the_base_url_is_learnt_from_the_servers_socket(sockname: object, family: int, tls: bool, url: str) -> None:
    assert learnt_base_url(sockname, family, tls=tls) == url
    parse_base_url(url)


def test_the_base_url_is_learnt_from_a_real_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = learnt_base_url(server.getsockname(), server.family, tls=False)
        assert parse_base_url(url).address == TCPAddress(*server.getsockname())


@pytest.mark.parametrize(
    ("sockname", "family"),
    [
        ("/run/app.sock", socket.AF_UNIX),
        ("", socket.AF_UNIX),
        (("/run/app.sock", 8000), socket.AF_UNIX),
        (None, socket.AF_INET),
        (("127.0.0.1",), socket.AF_INET),
        (("127.0.0.1", None), socket.AF_INET),
        (("127.0.0.1", 0), socket.AF_INET),
        (("127.0.0.1", 65536), socket.AF_INET),
        (("waitress.invalid", 8000), socket.AF_INET),
        (("127.0.0.1", 8000), -1),
    ],
)
def test_a_socket_without_an_address_is_refused(sockname: object, family: int) -> None:
    with pytest.raises(AddressUnknown, match="socket"):
        learnt_base_url(sockname, family, tls=False)


@pytest.mark.parametrize(
    ("host", "literal"), [("127.0.0.1", True), ("::1", True), ("localhost", False), ("1.2.3", False), ("*", False)]
)
def test_ip_addresses_need_no_resolver(host: str, literal: bool) -> None:
    assert is_ip_literal(host) is literal
