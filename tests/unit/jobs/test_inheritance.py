"""What a worker request inherits from the starting one: language and trace, logins by header, cookies of any bytes."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from attrs import evolve

from backjob.errors import InvalidRequest
from backjob.http.environ import restore
from backjob.http.scope import restored
from backjob.model import Caller, Credentials, Headers, Request
from backjob.worker.replies import Refusal
from backjob.worker.running import Running
from tests.unit.core import Bench, Here, bench, served
from tests.unit.gateways import environ_of, scope_of

CONTEXT = {
    "Accept-Language": "de-CH, de;q=0.9",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "vendor=1",
    "baggage": "user=5",
    "sentry-trace": "abc-def-1",
    "X-Request-ID": "r-1",
}


def page(*fields: tuple[str, str]) -> Here:
    return Here(Request("GET", "/page", fields))


def wire(world: Bench, here: Here, **options: Any) -> Request:
    """Start a job from this page, and return its worker request."""
    with served(here):
        world.jobs.start("/work", **options)
    world.step()
    return world.transport.sent[-1].delivery.sign()


def claim(world: Bench, request: Request) -> Running:
    opened = world.engine.worker.open(request)
    assert opened is not None
    return world.engine.worker.claim(opened, request.body)


def seen(running: Running, arrived: Headers = ()) -> list[dict[str, str]]:
    """Return the header fields that an action gets under WSGI, ASGI: with those that arrived beside the right ones."""
    environ = environ_of(**{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in arrived})
    request = Request("GET", "/work")
    restore(environ, request, running.job.caller, running.fields)
    wsgi = {key.removeprefix("HTTP_").replace("_", "-"): value for key, value in environ.items() if key[:4] == "HTTP"}
    scope = scope_of(headers=[(name.lower().encode(), value.encode("latin-1")) for name, value in arrived])
    shown = restored(scope, request, running.job.caller, running.fields)
    return [wsgi, {name.decode().upper(): value.decode("latin-1") for name, value in shown["headers"]}]


# --- language and trace ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_current_user", [True, False])
def test_the_action_sees_the_language_and_the_trace_of_the_starting_request(as_current_user: bool) -> None:
    world = bench(forward_headers=["HTTP_X_TENANT", "X-Absent"])
    here = page(*CONTEXT.items(), ("X-Tenant", "blue"), ("X-Other", "1"))
    request = wire(world, here, as_current_user=as_current_user)
    for name, value in {**CONTEXT, "X-Tenant": "blue", "X-Absent": None, "X-Other": None}.items():
        assert request.header(name) == value


def test_given_headers_win_over_inherited_ones() -> None:
    request = wire(bench(), page(*CONTEXT.items()), headers={"accept-language": "fr", "TraceParent": "mine"})
    assert (request.header("Accept-Language"), request.header("traceparent")) == ("fr", "mine")


def test_repeated_fields_stay_together() -> None:
    world = bench()
    running = claim(world, wire(world, page(), headers={"baggage": "a=1", "Baggage": "b=2"}))
    for fields in seen(running):
        assert fields["BAGGAGE"] == "a=1, b=2"


def test_the_action_sees_them_although_a_proxy_replaced_them() -> None:
    world = bench(forward_headers=["X-Tenant"])
    running = claim(world, wire(world, page(("X-Request-ID", "mine"), ("X-Tenant", "blue"))))
    for fields in seen(running, (("X-Request-ID", "the proxy's"), ("X-Tenant", "red"), ("traceparent", "new"))):
        assert (fields["X-REQUEST-ID"], fields["X-TENANT"], fields["TRACEPARENT"]) == ("mine", "blue", "new")


@pytest.mark.parametrize("value", ["a\x01b", "€", " a", ""])
def test_a_value_that_no_client_may_send_is_dropped(value: str) -> None:
    assert wire(bench(), page(("X-Request-ID", value))).header("X-Request-ID") is None


def test_inherited_fields_count_towards_the_limit() -> None:
    with pytest.raises(InvalidRequest, match="MAX_HEADERS=500"):
        wire(bench(max_headers=500), page(("Accept-Language", "x" * 500)))


# --- logins by header -----------------------------------------------------------------------------------------------

LOGIN = (("X-Api-Key", "0ddK€y".replace("€", "é")), ("Remote-User", "ann"))


@pytest.fixture(params=[False, True], ids=["held", "sealed"])
def world(request: pytest.FixtureRequest) -> Bench:
    return bench(credential_headers=["x-api-key", "HTTP_REMOTE_USER"], seal=request.param)


def test_a_login_by_header_is_restored_and_never_stored_or_sent_under_its_name(world: Bench) -> None:
    request = wire(world, page(*LOGIN, ("Cookie", "a=b"), ("X-Other", "1")))
    job = world.job(world.transport.sent[-1].delivery.job_id)
    assert job.request is not None
    for name, value in LOGIN:
        assert job.request.header(name) is None
        assert request.header(name) is None
        assert value not in repr((job, world.transport.sent, world.monitor._deliveries._by_id))
        assert value.encode() not in (job.sealed or b"")
    assert request.header("Cookie") == "a=b"
    for fields in seen(claim(world, request), (("X-Api-Key", "forged"),)):
        assert (fields["X-API-KEY"], fields["REMOTE-USER"]) == ("0ddKéy", "ann")
        assert "BACKJOB-CREDENTIALS" not in fields


def test_an_anonymous_job_has_no_login(world: Bench) -> None:
    request = wire(world, page(*LOGIN, ("Cookie", "a=b")), as_current_user=False)
    assert request.header("Backjob-Credentials") is None
    for fields in seen(claim(world, request), LOGIN):
        assert not {"X-API-KEY", "REMOTE-USER", "BACKJOB-CREDENTIALS"} & fields.keys()


def test_a_login_that_merely_arrives_with_a_worker_request_proves_nothing(world: Bench) -> None:
    request = wire(world, page(("Cookie", "a=b")))
    forged = evolve(request, headers=(*request.headers, *LOGIN, ("X_Api_Key", "forged")))
    for fields in seen(claim(world, forged), (*LOGIN, ("X_Api_Key", "forged"))):
        assert not {"X-API-KEY", "REMOTE-USER", "X_API_KEY"} & fields.keys()


def test_a_clients_field_with_an_underscore_is_no_login_of_the_proxys(world: Bench) -> None:
    request = wire(world, page(("Remote_User", "admin"), ("X_Api_Key", "guessed"), ("Cookie", "a=b")))
    assert request.header("Backjob-Credentials") is None
    for fields in seen(claim(world, request)):
        assert not {"X-API-KEY", "REMOTE-USER"} & fields.keys()


def test_a_login_of_another_job_or_of_a_forger_is_refused(world: Bench) -> None:
    anns, eves = wire(world, page(*LOGIN)), wire(world, page(("Remote-User", "eve")))
    written = anns.header("Backjob-Credentials")
    payload = base64.urlsafe_b64encode(b'[["Remote-User","admin"]]').rstrip(b"=").decode()
    assert written is not None
    for forged in (written, written[:-1], f"{payload}.{written.partition('.')[2]}", payload, "", ".", "é.é"):
        fields = tuple(field for field in eves.headers if field[0] != "Backjob-Credentials")
        with pytest.raises(Refusal) as caught:
            claim(world, evolve(eves, headers=(*fields, ("Backjob-Credentials", forged))))
        assert caught.value.status == 403
    assert claim(world, eves).fields["Remote-User"] == "eve"


def test_the_variable_of_a_wsgi_server_is_a_login_too(world: Bench) -> None:
    running = claim(world, wire(world, page(("REMOTE_USER", "ann"))))
    environ = environ_of(REMOTE_USER="the server's own", HTTP_REMOTE_USER="forged")
    restore(environ, Request("GET", "/work"), None, running.fields)
    assert environ["REMOTE_USER"] == "ann"
    assert "HTTP_REMOTE_USER" not in environ
    anonymous = claim(world, wire(world, page(("REMOTE_USER", "ann")), as_current_user=False))
    restore(environ, Request("GET", "/work"), None, anonymous.fields)
    assert "REMOTE_USER" not in environ


def test_a_given_login_is_a_credential_and_wins(world: Bench) -> None:
    request = wire(world, page(*LOGIN), headers={"X-API-Key": "service"})
    job = world.job(world.transport.sent[-1].delivery.job_id)
    assert job.request is not None
    assert job.request.header("X-Api-Key") is None
    assert seen(claim(world, request))[0]["X-API-KEY"] == "service"


def test_without_the_setting_the_fields_are_ordinary_ones() -> None:
    world = bench()
    request = wire(world, page(*LOGIN), headers={"X-Api-Key": "plain"})
    assert (request.header("X-Api-Key"), request.header("Remote-User")) == ("plain", None)


@pytest.mark.parametrize(
    ("option", "names"),
    [
        ("credential_headers", "X-A"),
        ("credential_headers", ["X A"]),
        ("credential_headers", [5]),
        ("credential_headers", ["Host"]),
        ("credential_headers", ["Content-Type"]),
        ("credential_headers", ["X-Forwarded-For"]),
        ("forward_headers", "X-A"),
        ("forward_headers", [""]),
        ("forward_headers", 5),
        ("forward_headers", ["Cookie"]),
        ("forward_headers", ["authorization"]),
        ("forward_headers", ["Content-Length"]),
        ("merge_cookies", "session"),
        ("merge_cookies", ["a=b"]),
        ("merge_cookies", [""]),
    ],
)
def test_an_invalid_name_is_refused_by_its_option(option: str, names: Any) -> None:
    options: dict[str, Any] = {option: names}
    with pytest.raises(InvalidRequest) as caught:
        bench(**options)
    assert caught.value.argument == option


def test_a_field_is_a_credential_or_forwarded_but_not_both() -> None:
    with pytest.raises(InvalidRequest) as caught:
        bench(credential_headers=["X-Api-Key"], forward_headers=["x-api-key"])
    assert caught.value.argument == "forward_headers"


# --- cookies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [code for code in range(256) if chr(code).isprintable() or code > 0x7F])
def test_a_cookie_may_begin_and_end_with_any_character_but_white_space(code: int) -> None:
    character = chr(code)
    here = page(("Cookie", f"{character}=voil{character}"))
    if character == " ":
        with pytest.raises(InvalidRequest):
            wire(bench(), here)
    else:
        assert wire(bench(), here).header("Cookie") == f"{character}=voil{character}"


def test_cookies_split_over_several_fields_are_sent_as_one() -> None:
    request = wire(bench(), page(("Cookie", "a=b"), ("Cookie", "c=d")))
    assert [value for name, value in request.headers if name == "Cookie"] == ["a=b; c=d"]


def test_the_error_for_large_cookies_names_the_setting() -> None:
    here = page(("Cookie", "c" * 9000))
    with pytest.raises(InvalidRequest, match="MAX_HEADERS=8192"):
        wire(bench(), here)
    assert wire(bench(max_headers=16384), here).header("Cookie") == "c" * 9000


def test_a_cookie_that_the_response_will_set_replaces_the_old_one() -> None:
    class Changed(Here):
        def changed_cookies(self) -> dict[str, str | None]:
            return {"session": "new", "gone": None}

    here = Changed(Request("GET", "/", (("Cookie", "a=b; session=old;gone=1; session=older"),)), Caller("http", "", ""))
    assert wire(bench(), here).header("Cookie") == "a=b; session=new"
    assert wire(bench(), Changed(Request("GET", "/"))).header("Cookie") == "session=new"
    assert bench().engine.inheritance.packed("job", Credentials()) == Credentials()
