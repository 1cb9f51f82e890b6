"""Jobs on real servers: users, sessions, secure settings, and clients that hang up."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from backjob.clock import SystemClock
from backjob.django import jobs
from backjob.model import Request
from backjob.protocols import Grant
from tests.adapters.django.sites import Browser, Site, serving
from tests.scenarios.client import Gate

SECURE: Final[dict[str, Any]] = {
    "ALLOWED_HOSTS": ["shop.example"],
    "SECURE_SSL_REDIRECT": True,
    "SECURE_PROXY_SSL_HEADER": ["HTTP_X_FORWARDED_PROTO", "https"],
    "SECURE_REDIRECT_EXEMPT": ["^ready$"],
    "SESSION_COOKIE_SECURE": True,
}
KEPT: Final = ("db", "cached_db", "file", "cache")
"""Session engines whose sessions other requests can read."""


@pytest.fixture(
    scope="module",
    params=["gunicorn-threads", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("uvicorn-h11", "runserver"))],
)
def site(request: pytest.FixtureRequest, sqlite: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving(request.param, tmp_path_factory.mktemp("site"), **SECURE) as site:
        yield site


def signed_in(site: Site, **fields: str) -> Browser:
    bo = site.browser(X_Forwarded_Proto="https", **fields)
    bo.get("/login/Bo")
    return bo


# --- what a job sees ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_a_job_has_its_starters_user_over_https_and_needs_no_csrf_token(site: Site, method: str) -> None:
    bo = signed_in(site)
    form = {} if method == "GET" else {"form": {"name": "Ünal"}}
    state = bo.end(bo.start("see", method=method, **form))
    seen = state["result"]
    assert state["status_name"] == "COMPLETED", state
    assert (seen["method"], seen["user"], seen["owner"]) == (method, "Bo", state["owner"])
    assert (seen["scheme"], seen["secure"], seen["host"]) == ("https", True, "shop.example")
    assert seen["address"] == "127.0.0.1"
    assert seen["form"] == (form.get("form", {}) if method == "POST" else {})


def test_an_anonymous_job_has_no_user(site: Site) -> None:
    bo = signed_in(site)
    state = bo.end(bo.start("see", as_current_user=False))
    assert (state["result"]["user"], bool(state["owner"])) == ("", True)


def test_a_person_without_a_csrf_token_gets_403_and_another_host_400(site: Site) -> None:
    bo = signed_in(site)
    assert bo.request("POST", "/see", b"name=Eve").status == 403
    assert bo.request("GET", "/see", Host="evil.example").status == 400
    assert bo.request("GET", "/only").status == 403


def test_a_job_started_in_a_transaction_runs(site: Site) -> None:
    bo = signed_in(site)
    page = bo.request("POST", "/start-within", b'{"path": "see"}')
    assert bo.end(page.json())["status_name"] == "COMPLETED"


def test_other_users_get_a_404(site: Site) -> None:
    bo, eve = signed_in(site), site.browser(X_Forwarded_Proto="https")
    eve.get("/login/Eve")
    path = f"/backjob/{bo.start('see')['id']}"
    assert bo.get(path).json()["owner"]
    assert eve.request("GET", path).status == 404
    bo.get("/logout")
    assert bo.request("GET", path).status == 404


# --- sessions -------------------------------------------------------------------------------------------------------


@pytest.fixture(
    scope="module",
    params=["db", *[pytest.param(one, marks=pytest.mark.slow) for one in (*KEPT[1:], "signed_cookies")]],
)
def engine(
    request: pytest.FixtureRequest, sqlite: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Site]]:
    directory = tmp_path_factory.mktemp("sessions")
    settings: dict[str, Any] = {"SESSION_ENGINE": f"django.contrib.sessions.backends.{request.param}"}
    if request.param == "file":
        settings["SESSION_FILE_PATH"] = str(directory)
    with serving("gunicorn-threads", directory, **settings) as site:
        yield request.param, site


def test_a_job_knows_its_user_with_every_session_engine(engine: tuple[str, Site]) -> None:
    bo = signed_in(engine[1])
    assert bo.end(bo.start("see"))["result"]["user"] == "Bo"


def held(site: Site, meanwhile: str, bo: Browser | None = None, **query: Any) -> tuple[Any, list[str], Browser]:
    """Open a page while a job runs. Returns the job's result, the session after both, and an old copy of it."""
    bo = bo or signed_in(site)
    with Gate() as gate:
        started = bo.start("hold", query={"gate": gate.port, **query})
        action = gate.reached()
        before = Browser(bo.client, bo.fields, dict(bo.cookies))
        bo.get(meanwhile)
        action.release()
    state = bo.end(started)
    assert state["status_name"] == "COMPLETED", state
    return state["result"], bo.get("/notes").json(), before


def test_a_job_that_only_reads_its_session_keeps_changes_of_pages(engine: tuple[str, Site]) -> None:
    name, site = engine
    late, early = held(site, "/note/page"), held(site, "/note/page", touch=1)
    assert late[0] == (["Bo", "page"] if name in KEPT else ["Bo"])
    assert early[0] == ["Bo"]
    assert late[1] == early[1] == ["page"]


def test_a_job_that_writes_to_its_session_keeps_changes_of_pages(engine: tuple[str, Site]) -> None:
    name, site = engine
    late, early = held(site, "/note/page", write="job"), held(site, "/note/page", write="job", touch=1)
    assert late[1] == early[1] == (["job", "page"] if name in KEPT else ["page"])


def test_sessions_keep_changes_of_pages_on_every_server(site: Site) -> None:
    assert held(site, "/note/page", write="job", touch=1)[1] == ["job", "page"]


def test_a_job_does_not_restore_session_values_that_pages_remove(engine: tuple[str, Site]) -> None:
    name, site = engine
    bo = signed_in(site)
    bo.get("/note/page")
    assert held(site, "/forget/page", bo, write="job", touch=1)[1] == (["job"] if name in KEPT else [])


def test_a_logout_during_a_job_ends_a_session_that_the_job_has_not_read(engine: tuple[str, Site]) -> None:
    name, site = engine
    assert held(site, "/logout")[0] == ([""] if name in KEPT else ["Bo"])
    assert held(site, "/logout", touch=1)[0] == ["Bo"]


def test_a_job_does_not_restore_a_session_after_a_logout(engine: tuple[str, Site]) -> None:
    name, site = engine
    _, notes, before = held(site, "/logout", write="job", touch=1)
    assert notes == []
    assert before.get("/notes").json() == []
    # A cookie that holds the session itself is good for as long as it says: Django can't take it back.
    assert bool(before.end(before.start("see"))["result"]["user"]) == (name not in KEPT)


# --- a prefix that a proxy strips -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gunicorn-threads", "uvicorn-h11"])
def test_urls_that_a_job_reverses_have_the_prefix(kind: str, sqlite: str, tmp_path: Path) -> None:
    with serving(kind, tmp_path, module="behind_proxy", ALLOWED_HOSTS=["*"]) as site:
        bo = site.browser(X_Forwarded_Prefix="/public")
        bo.get("/login/Bo")
        url = bo.start("/see")["url"]
        assert url.startswith("/public/")
        seen = bo.end({"url": url.removeprefix("/public")})["result"]
        assert (seen["reversed"], seen["path"]) == ("/public/see", "/public/see")


# --- SQLite ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gunicorn-threads", "gunicorn-sync-2"])
def test_pages_and_a_job_write_to_sqlite_without_errors(kind: str, sqlite: str, tmp_path: Path) -> None:
    pages = 80
    with serving(kind, tmp_path, ALLOWED_HOSTS=["*"]) as site, ThreadPoolExecutor(4) as people:
        bo = signed_in(site)
        started = bo.start("/write-often", query={"until": pages})
        statuses = list(people.map(lambda _: site.browser().request("GET", "/write").status, range(pages)))
        state = bo.end(started)
    assert (set(statuses), state["status_name"]) == ({200}, "COMPLETED"), state
    assert state["result"] > 0


# --- a client that hangs up -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.slow) for kind in ("uvicorn-h11", "hypercorn", "granian", "daphne")],
)
def test_an_action_whose_client_hangs_up_runs_to_its_end(kind: str, sqlite: str, tmp_path: Path) -> None:
    with serving(kind, tmp_path) as site:
        for path in ("/hold-async", "/hold"):
            check_hanging_up(site, path)


def check_hanging_up(site: Site, path: str) -> None:
    """Check that this action runs to its end although the client of its request has disconnected."""
    with Gate() as gate:
        bo = site.browser()
        target = f"{path}?gate={gate.port}"
        started = bo.start(target, delay=3600, as_current_user=False)
        now = int(SystemClock().now().timestamp())
        # Signed as the site signs, whose key is derived from the same settings.
        request = jobs.signer.sign(Request("GET", target), Grant(started["id"], 1, 1, now, now + 60))
        assert isinstance(site.server.client.address, tuple)
        with socket.create_connection(site.server.client.address) as connection:
            fields = "".join(f"{name}: {value}\r\n" for name, value in (("Host", "shop.example"), *request.headers))
            connection.sendall(f"{request.method} {request.target} HTTP/1.1\r\n{fields}\r\n".encode())
            action = gate.reached()
        # The connection is closed; the server has seen that by the time it has served another request.
        bo.get("/ready")
        action.proceed()
        assert bo.get(started["url"]).json()["status_name"] == "IN_PROGRESS"
        assert action.release() == "returned"
        assert bo.end(started)["status_text"] == "held"
