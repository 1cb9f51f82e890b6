"""Translating ASGI scopes: the request, its caller and mount, and the server's address."""

from __future__ import annotations

from typing import Any

import pytest

from backjob.errors import AddressUnknown
from backjob.http.scope import ScopeServing, listener_of, request_of, restored, route_path, routed_requests
from backjob.model import Caller
from tests.unit.core import COOKIE
from tests.unit.gateways import scope_of


@pytest.mark.parametrize(
    ("extra", "target", "raw"),
    [
        ({"raw_path": b"/a%2Fb"}, "/a%2Fb?x=1", True),
        ({"raw_path": b"/a%2Fb?x=1"}, "/a%2Fb?x=1", True),
        ({"raw_path": None}, "/a/b?x=1", False),
        ({"raw_path": None, "path": "/ü b"}, "/%C3%BC%20b?x=1", False),
        ({"raw_path": None, "path": "", "query_string": b""}, "/", False),
    ],
)
def test_the_target_is_the_raw_one_if_the_server_provides_it(extra: dict[str, Any], target: str, raw: bool) -> None:
    request = request_of(scope_of("/a/b", "x=1") | extra)
    assert (request.target, request.raw) == (target, raw)


def test_a_scope_is_translated_to_headers_caller_and_mount() -> None:
    headers = [(b"Host", b"shop.example"), (b"cookie", COOKIE.encode()), (b"x-forwarded-for", b"192.0.2.7")]
    scope = scope_of(root_path="/sh op", headers=headers, scheme="https")
    assert request_of(scope).header("cookie") == COOKIE
    here = ScopeServing(scope)
    assert here.caller == Caller("https", "shop.example", "127.0.0.1", (("X-Forwarded-For", "192.0.2.7"),))
    assert here.mount == "/sh%20op"
    assert ScopeServing(scope_of(root_path="//evil.example")).mount == "/evil.example"
    assert ScopeServing(scope_of(client=None, headers=[])).caller == Caller("http", "", "")


@pytest.mark.parametrize(
    ("path", "root", "targets"),
    [
        ("/work", "", ["/work"]),
        ("/shop/work", "/shop", ["/work"]),
        ("/work", "/shop", ["/work"]),
        ("/shopping", "/shop", ["/shopping"]),
        ("/shop/shop/work", "/shop", ["/shop/work", "/work"]),
        ("/shop", "/shop", ["/"]),
    ],
)
def test_the_routed_path_is_below_the_root_path_with_which_the_target_may_have_begun(
    path: str, root: str, targets: list[str]
) -> None:
    found = routed_requests(scope_of(path, "x=1", root_path=root))
    assert [request.target for request in found] == [f"{target}?x=1" for target in targets]


@pytest.mark.parametrize(
    "path", ["/x", "/shop", "/shop/x", "/shop/shop/x", "/shop/shop", "/shop/shop/shop/x", "/shopping"]
)
@pytest.mark.parametrize("root", ["", "/shop"])
@pytest.mark.parametrize("started", [None, "", "/shop", "/outer/shop", "/shop/shop"])
def test_the_application_routes_the_path_that_was_verified_whatever_the_mount(
    root: str, path: str, started: str | None
) -> None:
    scope = scope_of(path, root_path=root)
    caller = None if started is None else Caller("http", "shop.example", "127.0.0.1", mount=started)
    for request in routed_requests(scope):
        assert (route_path(restored(scope, request, caller, {})) or "/") == request.path


@pytest.mark.parametrize(
    ("root", "path", "raw", "target", "is_raw"),
    [
        ("", "/a/b", b"/a%2Fb", "/a%2Fb", True),
        ("/shop", "/shop/a/b", b"/shop/a%2Fb", "/a%2Fb", True),
        ("/shop", "/shop/a", b"/a", "/a", True),
        ("/sh op", "/sh op/a", b"/sh%20op/a", "/a", True),
        ("", "/\ufffd", b"/%FF", "/%FF", True),
        ("", "/admin", b"/public/other", "/admin", False),
        ("", "/\udcff", None, "/%3F", False),
    ],
)
def test_the_routed_path_is_encoded_as_on_the_wire(
    root: str, path: str, raw: bytes | None, target: str, is_raw: bool
) -> None:
    request = routed_requests(scope_of("", "x=1", root_path=root, raw_path=raw) | {"path": path})[0]
    assert (request.target, request.raw) == (f"{target}?x=1", is_raw)


def test_a_query_may_be_text_as_in_djangos_test_client() -> None:
    assert request_of({**scope_of(), "query_string": "x=%C3%BC"}).query == "x=%C3%BC"


@pytest.mark.parametrize(
    ("server", "address"),
    [
        (("127.0.0.1", 8000), "127.0.0.1:8000"),
        (("0.0.0.0", "8000"), "0.0.0.0:8000"),
        (("::1", 8000), "[::1]:8000"),
        (["::ffff:127.0.0.1", 8000], "127.0.0.1:8000"),
    ],
)
def test_the_address_comes_from_the_servers_socket_and_may_use_tls(server: Any, address: str) -> None:
    evil = [(b"host", b"evil.example:1"), (b"x-forwarded-host", b"evil.example")]
    for scheme in ("http", "https"):
        listener = listener_of(scope_of(server=server, headers=evil, scheme=scheme))
        assert listener.base_urls == (f"http://{address}", f"https://{address}")
        assert listener.port == 8000


@pytest.mark.parametrize(
    "server", [None, (), ("/run/app.sock", None), ("127.0.0.1", None), ("evil.example", 80), ("127.0.0.1", 0)]
)
def test_there_is_no_address_without_a_tcp_socket(server: Any) -> None:
    with pytest.raises(AddressUnknown):
        assert listener_of(scope_of(server=server)).base_urls


@pytest.mark.parametrize(
    "extra",
    [
        {"server": ["testserver", 80]},
        {"server": ["127.0.0.1", 8000], "extensions": {"http.response.debug": {}}},
        {"server": ("127.0.0.1", 8000), "extensions": {"http.response.template": {}}},
        {"server": ("127.0.0.1", "80"), "client": ["127.0.0.1", 0], "query_string": ""},
        {"client": ("127.0.0.1", 123), "asgi": {"version": "3.0"}},
        {"_quart._preserve_context": False},
    ],
    ids=["Starlette", "Starlette with an address", "Litestar", "Django", "httpx", "Quart"],
)
def test_the_scope_of_a_test_client_is_recognised(extra: dict[str, Any]) -> None:
    assert ScopeServing(scope_of(**extra)).is_test_client
    with pytest.raises(AddressUnknown, match="test client"):
        listener_of(scope_of(**extra))


def test_no_client_of_a_server_can_look_like_a_test_client() -> None:
    assert not ScopeServing(scope_of(headers=[(b"host", b"testserver")])).is_test_client
    # What uvicorn makes of "X-Forwarded-For: 127.0.0.1:123" by a proxy that it trusts.
    forwarded = scope_of(client=("127.0.0.1", 123), asgi={"version": "3.0", "spec_version": "2.3"})
    assert not ScopeServing(forwarded).is_test_client
