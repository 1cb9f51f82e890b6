"""What an action sees of the request that started its job, and what needs a verified signature."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import Future
from io import BytesIO
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.handlers.asgi import ASGIRequest
from django.test import AsyncClient, AsyncRequestFactory, Client, override_settings
from django.urls import reverse

from backjob import Status
from backjob.clock import SystemClock
from backjob.django import jobs
from backjob.django.requests import restore, routed_requests
from backjob.django.testing import immediate, recorded
from backjob.errors import AddressUnknown
from backjob.model import Request
from backjob.protocols import Grant
from tests.adapters.django import views

pytestmark = pytest.mark.usefixtures("database")


def start(client: Client, path: str = "see", **options: Any) -> str:
    headers = options.pop("headers", {})
    secure = options.pop("secure", False)
    with immediate():
        answer = client.post(
            "/start", {"path": path, **options}, content_type="application/json", headers=headers, secure=secure
        )
    assert answer.status_code == 200, answer.content
    return str(answer.json()["id"])


def sight() -> dict[str, Any]:
    assert len(views.seen) == 1
    return views.seen[0]


@pytest.fixture
def bo() -> Client:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create(username="Bo"))
    return client


# --- CSRF -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_jobs_request_needs_no_csrf_token(bo: Client, method: str) -> None:
    state = jobs.status(start(bo, method=method, form={"name": "Ünal"}))
    assert (state.status, sight()["method"]) == (Status.COMPLETED, method)
    assert sight()["body"] == "name=%C3%9Cnal"
    assert sight()["form"] == ({"name": "Ünal"} if method == "POST" else {})


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("path", ["/see", "/see?backjob=1", "/only"])
def test_other_requests_need_a_csrf_token(bo: Client, method: str, path: str) -> None:
    assert bo.generic(method, path, b"name=Eve", content_type="application/x-www-form-urlencoded").status_code == 403
    assert views.seen == []


class _Caught:
    """A transport that keeps the request instead of sending it."""

    capacity = None
    in_process = True

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def send(self, delivery: Any) -> Future[Any]:
        self.requests.append(delivery.sign())
        return Future()

    def close(self) -> None:
        """Do nothing."""


def sent(request: Request) -> Any:
    """The site's response to this request."""
    fields = dict(request.headers)
    kind = fields.pop("Content-Type", "application/octet-stream")
    client = Client(enforce_csrf_checks=True)
    return client.generic(request.method, request.target, request.body, content_type=kind, headers=fields)


def signed(**times: int) -> Request:
    now = int(SystemClock().now().timestamp())
    grant = Grant("job", 1, 1, now + times.get("created", 0), now + times.get("expires", 60))
    return jobs.signer.sign(Request("POST", "/see", (("User-Agent", "x"),)), grant)


def test_a_signed_request_for_an_unknown_job_runs_nothing() -> None:
    assert sent(signed()).status_code == 409
    assert views.seen == []


@pytest.mark.parametrize("forge", ["expired", "another path", "another key", "another method"])
def test_a_forged_or_expired_signature_gets_a_403_before_any_view(forge: str) -> None:
    from attrs import evolve

    if forge == "another key":
        with override_settings(SECRET_KEY="somebody else's, 61c0d29e4fb8a375"):
            request = signed()
    else:
        request = signed(created=-7200, expires=-3600) if forge == "expired" else signed()
    if forge == "another path":
        request = evolve(request, target=request.target.replace("/see", "/only"))
    if forge == "another method":
        request = evolve(request, method="PUT")
    answer = sent(request)
    assert answer.status_code == 403
    assert "backjob-refusal" in {name.lower() for name in answer.headers}
    assert views.seen == []


# --- the user -------------------------------------------------------------------------------------------------------


def test_the_jobs_user_is_the_one_who_started_it(bo: Client) -> None:
    state = jobs.status(start(bo))
    owner = str(User.objects.get().pk)
    assert (sight()["user"], sight()["owner"], state.owner) == ("Bo", owner, owner)


def test_an_anonymous_job_still_belongs_to_its_starter(bo: Client) -> None:
    state = jobs.status(start(bo, as_current_user=False))
    assert (sight()["user"], state.owner) == ("", str(User.objects.get().pk))


def test_a_job_started_without_a_login_has_no_owner() -> None:
    state = jobs.status(start(Client()))
    assert (sight()["user"], state.owner) == ("", None)


# --- a middleware before backjob's ----------------------------------------------------------------------------------


def early(get_response: Any) -> Any:
    """A middleware that reads what Django's requests keep once they have computed it, as tracing does."""

    def middleware(request: Any) -> Any:
        request.build_absolute_uri("?")
        _ = (request.headers, request.GET, request.COOKIES, request.accepted_types, request.get_full_path())
        return get_response(request)

    return middleware


@override_settings(MIDDLEWARE=[f"{__name__}.early", *settings.MIDDLEWARE], ALLOWED_HOSTS=["*"])
def test_what_a_middleware_before_ours_has_read_is_restored_too(bo: Client) -> None:
    start(bo, "/see?year=2026", headers={"Host": "shop.example"}, secure=True)
    seen = sight()
    assert (seen["url"], seen["host"], seen["query"]) == ("https://shop.example/see", "shop.example", {"year": "2026"})


# --- a prefix that a proxy strips -----------------------------------------------------------------------------------


def test_urls_that_a_job_reverses_have_the_prefix_of_the_request_that_started_it(bo: Client) -> None:
    with immediate():
        answer = bo.post(
            "/start",
            {"path": "/see"},
            content_type="application/json",
            SCRIPT_NAME="/\u00fc b".encode().decode("latin-1"),
        )
    assert jobs.status(answer.json()["id"]).status is Status.COMPLETED
    assert (sight()["reversed"], sight()["path"]) == ("/%C3%BC%20b/see", "/\u00fc b/see")
    assert bo.get("/ready").status_code == 200
    assert reverse("see") == "/see"  # of the next request


# --- what Django's log has of a job that fails ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "text", "logged"),
    [
        ("word", "no such customer", []),
        ("error", "LookupError: no such customer", [("ERROR", LookupError)]),
        ("404", "404 Not Found", [("WARNING", None)]),
        ("503", "503 Service Unavailable", [("ERROR", None)]),
    ],
)
def test_an_error_is_logged_once_and_fail_is_not_logged(
    caplog: pytest.LogCaptureFixture, how: str, text: str, logged: list[Any]
) -> None:
    with caplog.at_level("INFO", "django.request"):
        state = jobs.status(start(Client(raise_request_exception=False), f"/fail/{how}"))
    assert (state.status, state.status_text) == (Status.FAILED, text)
    found = [record for record in caplog.records if record.name == "django.request"]
    assert [(record.levelname, record.exc_info and record.exc_info[0]) for record in found] == logged


# --- Django's own clients, and settings of its own ------------------------------------------------------------------


def test_the_async_client_is_served_and_its_fake_address_is_ignored() -> None:
    jobs.reset()
    page = asyncio.run(AsyncClient().get("/ready?x=1"))
    assert page.status_code == 200
    assert jobs.transport is None


def posted(client: Any) -> None:
    page = client.post("/start", {"path": "see"}, content_type="application/json")
    asyncio.run(page)  # only the asynchronous client returns without having called the view


@pytest.mark.parametrize("has_base_url", [True, False])
@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_request_of_a_test_client_starts_nothing_that_leaves_the_process(client: Any, has_base_url: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with override_settings(BACKJOB={"BASE_URL": url} if has_base_url else {}):
            jobs.reset()
            with pytest.raises(AddressUnknown, match=r"backjob\.django\.testing\.immediate\(\) or recorded\(\)"):
                posted(client())
            assert jobs.find() == []
            jobs.reset()
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()


@pytest.mark.parametrize("raw", [True, False], ids=["with the raw path", "without"])
@pytest.mark.parametrize("path", ["/see", "see"], ids=["path", "name"])
def test_a_forced_script_name_is_not_on_the_wire(raw: bool, path: str) -> None:
    """The request behind a proxy that strips the name, under WSGI and ASGI."""
    with override_settings(FORCE_SCRIPT_NAME="/shop"), recorded() as started:
        wire: Any = {"REQUEST_URI": "/start"} if raw else {}
        page = Client().post(
            "/start", {"path": path, "as_current_user": False}, content_type="application/json", **wire
        )
        assert page.status_code == 200, page.content
        [job] = started
        assert job.request.target == "/see"
        now = int(SystemClock().now().timestamp())
        request = jobs.signer.sign(job.request, Grant(job.job_id, 1, 1, now, now + 60))
        wire = {"REQUEST_URI": request.target} if raw else {}
        assert Client().get(request.target, **wire).status_code == 200
        assert jobs.status(job.job_id).status is Status.COMPLETED


# --- host, scheme, address ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["testserver", "shop.example"])
def test_the_host_is_that_of_the_starting_request(bo: Client, host: str) -> None:
    start(bo, headers={"host": host})
    assert sight()["host"] == host


def test_https_behind_a_proxy_is_kept() -> None:
    proxied = {"x-forwarded-proto": "https", "host": "shop.example"}
    with override_settings(SECURE_SSL_REDIRECT=True, SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https")):
        state = jobs.status(start(Client(), headers=proxied))
        assert Client().get("/see").status_code == 301
    assert state.status is Status.COMPLETED
    assert (sight()["secure"], sight()["scheme"], sight()["host"]) == (True, "https", "shop.example")


def test_https_without_a_proxy_is_kept() -> None:
    with override_settings(SECURE_SSL_REDIRECT=True):
        start(Client(), secure=True)
    assert sight()["secure"]


def test_the_address_is_that_of_the_starting_request() -> None:
    start(Client(REMOTE_ADDR="192.0.2.7"))
    assert sight()["address"] == "192.0.2.7"


def test_a_view_may_read_the_body_as_a_stream() -> None:
    start(Client(), "read", method="POST", body="some body")
    assert views.seen == [{"read": "some", "rest": " body"}]


@pytest.mark.parametrize(
    ("force", "root", "path", "routed"),
    [
        (None, "", "/shop/shop/x", ["/shop/shop/x"]),
        (None, "/shop", "/shop/x", ["/x"]),
        (None, "/shop", "/shop/shop/x", ["/shop/x", "/x"]),
        ("/shop", "", "/x", ["/x"]),
        ("/shop", "", "/shop/x", ["/x"]),
        ("/shop", "", "/shop/shop/x", ["/shop/x"]),
        ("/shop/a", "/shop", "/shop/a/b", ["/b"]),
    ],
)
def test_under_asgi_the_signature_covers_the_path_that_django_routes(
    force: str | None, root: str, path: str, routed: list[str]
) -> None:
    factory: Any = AsyncRequestFactory()
    scope = {**factory._base_scope(path=path), "root_path": root, "raw_path": path.encode()}
    with override_settings(FORCE_SCRIPT_NAME=force):
        request = ASGIRequest(scope, BytesIO())
        found = routed_requests(request)
        assert [one.target for one in found] == routed
        assert request.path_info == routed[0]
        for one in found:
            again = ASGIRequest(dict(scope), BytesIO())
            restore(again, one, None, {}, b"")
            assert again.path_info == one.path
