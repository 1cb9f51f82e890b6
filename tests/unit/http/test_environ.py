"""Translating WSGI environs: the request, its caller and mount, and the server's address."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

import pytest
from django.core.handlers.wsgi import LimitedStream
from django.test.client import FakePayload
from flask import Flask
from werkzeug.test import EnvironBuilder

from backjob.errors import AddressUnknown
from backjob.http.environ import EnvironServing, listener_of, request_of, restore, routed_request
from backjob.model import Caller, Request
from tests.unit.core import COOKIE
from tests.unit.gateways import environ_of


@pytest.mark.parametrize(
    ("extra", "target", "raw"),
    [
        ({"REQUEST_URI": "/a%2Fb?x=1"}, "/a%2Fb?x=1", True),
        ({"RAW_URI": "/a%2Fb?x=1"}, "/a%2Fb?x=1", True),
        ({"REQUEST_URI": "/a%2Fb", "RAW_URI": "/c"}, "/a%2Fb?x=1", True),
        ({"REQUEST_URI": "http://h:1/a%2Fb?x=1"}, "/a%2Fb?x=1", True),
        ({"REQUEST_URI": "http://h?x=1"}, "/?x=1", True),
        ({}, "/a/b?x=1", False),
        ({"SCRIPT_NAME": "/shop"}, "/shop/a/b?x=1", False),
        ({"PATH_INFO": "/\u00c3\u00bc b"}, "/%C3%BC%20b?x=1", False),
        ({"PATH_INFO": "", "QUERY_STRING": ""}, "/", False),
    ],
)
def test_the_target_is_the_raw_one_if_the_server_provides_it(extra: dict[str, str], target: str, raw: bool) -> None:
    request = request_of(environ_of("/a/b", "x=1") | extra)
    assert (request.target, request.raw) == (target, raw)


@pytest.mark.parametrize(
    ("mount", "path", "raw", "target", "is_raw"),
    [
        ("", "/a/b", "/a/b", "/a/b", True),
        ("", "/a/b", "/a%2Fb", "/a%2Fb", True),
        ("", "/a b", None, "/a%20b", False),
        ("/shop", "/a/b", "/shop/a/b", "/a/b", True),
        ("/shop", "/a/b", "/shop/a%2fb", "/a%2fb", True),
        ("/sh/op", "/b", "/sh%2Fop/b", "/b", True),
        ("/shop", "/a/b", "/a/b", "/a/b", True),
        ("/shop", "", "/shop", "/", False),
        ("/shop", "/", "/shop/", "/", True),
        ("/shop", "/shop/a", "/shop/shop/a", "/shop/a", True),
        ("", "/admin", "/public/other", "/admin", False),
        ("", "/a", "a", "/a", False),
        ("", "/\u00c3\u00bc", "/%C3%BC", "/%C3%BC", True),
        ("", "/\u20ac", "/x", "/%E2%82%AC", False),
    ],
)
def test_the_routed_path_is_below_the_mount_and_encoded_as_on_the_wire(
    mount: str, path: str, raw: str | None, target: str, is_raw: bool
) -> None:
    uri = {} if raw is None else {"RAW_URI": f"{raw}?x=1"}
    request = routed_request(environ_of(path, "x=1", SCRIPT_NAME=mount, **uri))
    assert (request.target, request.raw) == (f"{target}?x=1", is_raw)


def test_the_action_sees_the_raw_path_below_its_mount_as_it_arrived() -> None:
    environ = environ_of("/a", "x=1&signature", SCRIPT_NAME="/shop", RAW_URI="/shop/a?x=1&signature")
    restore(environ, Request("GET", "/a?x=1"), None, {})
    assert (environ["RAW_URI"], environ["QUERY_STRING"]) == ("/shop/a?x=1", "x=1")


def test_an_environ_is_translated_to_headers_caller_and_mount() -> None:
    environ = environ_of(
        SCRIPT_NAME="/sh op",
        HTTP_COOKIE=COOKIE,
        CONTENT_TYPE="text/plain",
        CONTENT_LENGTH="",
        HTTP_X_FORWARDED_FOR="192.0.2.7",
        HTTP_X_OTHER="1",
    )
    request, here = request_of(environ), EnvironServing(environ)
    assert (request.header("cookie"), request.header("content-type")) == (COOKIE, "text/plain")
    assert request.header("content-length") is None
    assert here.caller == Caller("http", "127.0.0.1:8000", "127.0.0.1", (("X-Forwarded-For", "192.0.2.7"),))
    assert here.mount == "/sh%20op"


@pytest.mark.parametrize(
    ("before", "after", "mount"),
    [
        (("", "/sub/page"), ("/sub", "/page"), ""),
        (("/shop", "/sub/page"), ("/shop/sub", "/page"), "/shop"),
        (("/shop", "/sub"), ("/shop/sub", ""), "/shop"),
        (("", "/page"), ("/prefix", "/page"), "/prefix"),
        (("/shop", "/page"), ("/shop", "/rewritten"), "/shop"),
    ],
    ids=["dispatched", "dispatched below a mount", "whole path dispatched", "proxy prefix", "rewritten path"],
)
def test_dispatching_below_the_middleware_does_not_change_the_mount(
    before: tuple[str, str], after: tuple[str, str], mount: str
) -> None:
    names = ("SCRIPT_NAME", "PATH_INFO")
    environ = environ_of() | dict(zip(names, before, strict=True))
    here = EnvironServing(environ)
    environ |= dict(zip(names, after, strict=True))
    assert here.mount == mount


class _Channel:
    """waitress's connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection

    def check_client_disconnected(self) -> bool:
        return False


def _of_gunicorn(connection: socket.socket) -> dict[str, Any]:
    return {"gunicorn.socket": connection}


def _of_werkzeug(connection: socket.socket) -> dict[str, Any]:
    return {"werkzeug.socket": connection}


def _of_waitress(connection: socket.socket) -> dict[str, Any]:
    return {"waitress.client_disconnected": _Channel(connection).check_client_disconnected}


def _of_wsgiref(connection: socket.socket) -> dict[str, Any]:
    return {"wsgi.input": connection.makefile("rb")}


def _of_runserver(connection: socket.socket) -> dict[str, Any]:
    return {"wsgi.input": LimitedStream(cast("Any", connection.makefile("rb")), 5)}


@pytest.mark.parametrize("server", [_of_gunicorn, _of_werkzeug, _of_waitress, _of_wsgiref, _of_runserver])
def test_the_address_comes_from_the_servers_socket_and_nothing_else(
    server: Callable[[socket.socket], dict[str, Any]],
) -> None:
    forged = {
        "HTTP_HOST": "evil.example:1",
        "SERVER_NAME": "evil.example",
        "SERVER_PORT": "6666",
        "HTTP_X_FORWARDED_HOST": "evil.example:6666",
        "HTTP_X_FORWARDED_PORT": "6666",
        "wsgi.url_scheme": "https",
    }
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        environ = environ_of(**forged) | server(accepted)
        listener, port = listener_of(environ), listening.getsockname()[1]
        environ.clear()
    assert (listener.base_urls, listener.port) == ((f"http://127.0.0.1:{port}",), port)


@pytest.mark.parametrize("server", [_of_gunicorn, _of_werkzeug, _of_waitress])
def test_a_connection_that_the_server_has_closed_shows_no_address(
    server: Callable[[socket.socket], dict[str, Any]],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        environ = environ_of() | server(closed)
    with pytest.raises(AddressUnknown, match="closed"):
        listener_of(environ)


def test_the_address_of_a_socket_with_tls_is_https() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with socket.create_server(("127.0.0.1", 0)) as plain, context.wrap_socket(plain, server_side=True) as encrypted:
        assert listener_of(environ_of() | _of_gunicorn(encrypted)).base_urls[0].startswith("https://127.0.0.1:")


@pytest.mark.parametrize(
    "environ",
    [
        environ_of(),
        environ_of(SERVER_PORT="6666", HTTP_HOST="127.0.0.1:6666"),
        environ_of(**{"uwsgi.version": b"2.0"}),
        environ_of(**{"mod_wsgi.version": (5, 0)}, SERVER_PORT="6666"),
        environ_of(**{"waitress.client_disconnected": lambda: False}),
    ],
    ids=["a port", "a forged port", "uwsgi", "mod_wsgi", "another function"],
)
def test_without_a_socket_there_is_no_address(environ: dict[str, Any]) -> None:
    with pytest.raises(AddressUnknown, match="does not show the socket"):
        listener_of(environ)


def test_a_unix_socket_has_no_base_url() -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listener = listener_of(environ_of(HTTP_HOST="evil.example:1", SERVER_PORT="1") | _of_gunicorn(listening))
    assert (listener.is_unix, listener.port) == (True, None)
    with pytest.raises(AddressUnknown, match="unix socket"):
        assert listener.base_urls


def _flask_environ() -> Any:
    return Flask("shop").test_client()._request_from_builder_args(("/",), {}).environ


@pytest.mark.parametrize(
    "environ",
    [
        EnvironBuilder("/").get_environ(),
        EnvironBuilder("/", base_url="http://127.0.0.1:8000").get_environ(),
        _flask_environ(),
        environ_of(**{"wsgi.input": FakePayload(b"")}),
        environ_of(**{"paste.testing": True}),
    ],
    ids=["werkzeug", "werkzeug with an address", "Flask", "Django", "WebTest"],
)
def test_the_environ_of_a_test_client_is_recognised(environ: dict[str, Any]) -> None:
    assert EnvironServing(environ).is_test_client
    with pytest.raises(AddressUnknown, match="test client"):
        listener_of(environ)


def test_no_client_of_a_server_can_look_like_a_test_client() -> None:
    assert not EnvironServing(environ_of(HTTP_USER_AGENT="Werkzeug/3", HTTP_HOST="testserver")).is_test_client
    assert not EnvironServing(environ_of(RAW_URI="/", REQUEST_URI="/", SERVER_SOFTWARE="Werkzeug/3")).is_test_client


@pytest.mark.parametrize(
    ("started", "arrived", "seen"),
    [
        ("", "", ""),
        ("/shop", "/shop", "/shop"),  # the server or a dispatcher has it from the path
        ("/public", "", "/public"),  # a proxy strips it, and only users' requests say so
        ("/public/shop", "/shop", "/public/shop"),  # both
        ("/%C3%BC%20b", "", "/\u00c3\u00bc b"),
        ("/%E2%82%AC", "/\u20ac", "/\u00e2\u0082\u00ac"),  # not an environ's text, but some middleware sets it
        ("", "/shop", "/shop"),  # the job's path is below a mount, the starting request was not
        ("/admin", "/shop", "/shop"),  # the path of another mount
        ("/myshop", "/shop", "/shop"),
    ],
)
def test_an_action_sees_the_mount_of_the_starting_request(started: str, arrived: str, seen: str) -> None:
    environ = environ_of("/a", SCRIPT_NAME=arrived)
    restore(environ, Request("GET", "/a"), Caller("https", "shop.example", "", mount=started), {})
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (seen, "/a")
