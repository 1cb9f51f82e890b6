"""Absolute URLs of the application: which are accepted, and which part goes on the wire."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve, frozen

from backjob.errors import InvalidRequest
from backjob.http.origins import is_url, local_target
from backjob.model import Caller, Request, Status
from tests.unit.core import Bench, FakeTransport, Here, bench, served

BASE = "http://127.0.0.1:8000"


@frozen
class Built:
    """A URL object, like Starlette's."""

    scheme: str
    netloc: str
    path: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}{self.path}"


def here(host: str = "shop.example", scheme: str = "https", path: str = "/page", mount: str = "") -> Here:
    return Here(Request("GET", path), Caller(scheme, host, ""), mount)


@pytest.mark.parametrize("path", ["http://a/b", "HTTPS://a", Built("http", "a", "/b")])
def test_an_absolute_url_is_recognised(path: Any) -> None:
    assert is_url(path)


@pytest.mark.parametrize("path", ["/a", "a", "a:b", "//a/b", "ftp://a/b", "/http://a", "", None, b"http://a", 5])
def test_a_path_is_not_a_url(path: Any) -> None:
    assert not is_url(path)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://shop.example/work", "/work"),
        ("HTTPS://Shop.Example:443/work?a=1&b=ä", "/work?a=1&b=%C3%A4"),
        ("https://shop.example/a%2fb/ü", "/a%2Fb/%C3%BC"),
        ("https://shop.example", "/"),
        ("https://shop.example?a=1", "/?a=1"),
        ("https://shop.example//work", None),
        ("https://shop.example/a/../work", None),
        ("https://shop.example/work#part", None),
        ("http://127.0.0.1:8000/work", "/work"),
        (Built("https", "shop.example", "/work"), "/work"),
        (Built("", "", "/work"), None),
    ],
)
def test_a_url_of_the_application_becomes_its_path_and_query(url: Any, target: str | None) -> None:
    if target is None:
        with pytest.raises(InvalidRequest, match="path"):
            local_target(url, here(), BASE)
    else:
        assert local_target(url, here(), BASE) == target


@pytest.mark.parametrize(
    "url",
    [
        "http://shop.example/work",  # another scheme
        "https://shop.example:444/work",
        "https://shop.example.evil/work",
        "https://evil.example/work",
        "https://ann@shop.example/work",
        "https://shop.example\\@evil.example/work",
        "https://shop.example\t/work",
        "https://[::1/work",
        "https://shop.example:x/work",
        "https:///work",
        "http://127.0.0.1/work",
        Built("https", "evil.example", "/work"),
    ],
)
def test_another_origin_is_refused(url: Any) -> None:
    for served_now in (here(), None):
        with pytest.raises(InvalidRequest) as caught:
            local_target(url, served_now, BASE)
        assert caught.value.argument == "path"


def test_outside_of_a_request_only_the_base_urls_origin_is_accepted() -> None:
    assert local_target(f"{BASE}/work", None, BASE) == "/work"
    with pytest.raises(InvalidRequest):
        local_target("https://shop.example/work", None, BASE)
    with pytest.raises(InvalidRequest):
        local_target(f"{BASE}/work", None, None)


@pytest.mark.parametrize("host", ["", "a b", "shop.example/evil", "ä\udcff", "[::1", "a:b"])
def test_an_invalid_host_from_the_client_matches_no_url(host: str) -> None:
    assert local_target(f"{BASE}/work", here(host), BASE) == "/work"
    with pytest.raises(InvalidRequest):
        local_target("https://evil.example/work", here(host), BASE)


@pytest.mark.parametrize(
    ("base", "mount", "path", "expected"),
    [
        (BASE, "/shop", "/shop/page", "/shop/work"),  # the server sees the whole path
        (BASE, "/shop", "/page", "/work"),  # a proxy strips it, and the server knows
        (BASE, "/shopping", "/shopping/page", "/shop/work"),
        (f"{BASE}/shop", "", "/page", "/work"),  # the transport adds it
        (f"{BASE}/shop", "/shop", "/shop/page", "/work"),
        (f"{BASE}/sho", "", "/page", "/shop/work"),
        (f"{BASE}/shop/work", "", "/page", "/"),
    ],
)
def test_the_part_that_a_proxy_strips_is_removed(base: str, mount: str, path: str, expected: str) -> None:
    shown = here(path=path, mount=mount)
    assert local_target("https://shop.example/shop/work", shown, base) == expected


# --- start() --------------------------------------------------------------------------------------------------------


@pytest.fixture
def world() -> Bench:
    return bench()


def test_start_accepts_a_url_of_the_application(world: Bench) -> None:
    with served(here()):
        job_id = world.jobs.start("https://shop.example/work?a=1", {"b": 2})
        other = world.jobs.start(Built("https", "shop.example", "/work"))
    first, second = world.job(job_id).request, world.job(other).request
    assert first is not None
    assert second is not None
    assert (first.target, second.target) == ("/work?a=1&b=2", "/work")


def test_a_job_started_by_url_merges_with_one_started_by_path(world: Bench) -> None:
    with served(here()):
        one = world.start("/work", merge="pending", delay=60)
        assert world.start("https://shop.example/work", merge="pending", delay=60) == one


def test_with_a_foreign_url_nothing_is_stored_or_sent(world: Bench) -> None:
    with served(here()), pytest.raises(InvalidRequest, match="path: the URL must have the scheme and host"):
        world.start("https://evil.example/work")
    assert not world.store.calls
    assert not world.transport.sent


def test_the_mount_of_the_starting_request_is_stored_for_the_worker(world: Bench) -> None:
    with served(here(path="/shop/page", mount="/shop")):
        by_url, by_path = world.start("https://shop.example/shop/work"), world.start("/shop/work")
    callers = [world.job(job_id).caller for job_id in (by_url, by_path)]
    assert [caller.mount for caller in callers if caller is not None] == ["/shop", "/shop"]
    assert world.job(by_url).status is Status.STARTED


@pytest.mark.parametrize(
    ("path", "mount", "start", "signed"),
    [
        ("/shop/page", "/shop", "/shop/work?a=1", "/work?a=1"),
        ("/shop/page", "/shop", "https://shop.example/shop/work", "/work"),
        ("/shop/page", "/shop", "/shop", "/"),
        ("/shop/page", "/shop", "/shop?a=1", "/?a=1"),
        ("/shop/page", "/shop", "/shopping", "/shopping"),
        ("/page", "/shop", "/shop/work", "/shop/work"),
        ("/page", "", "/shop/work", "/shop/work"),
    ],
    ids=["path", "URL", "mount", "mount and query", "another path", "a proxy strips the mount", "no mount"],
)
def test_the_path_below_the_mount_is_signed_and_the_whole_one_is_sent(
    world: Bench, path: str, mount: str, start: str, signed: str
) -> None:
    with served(here(path=path, mount=mount)):
        job_id = world.start(start)
    request = world.job(job_id).request
    assert request is not None
    world.step()
    (sent,) = world.transport.sent
    arrived = sent.delivery.sign()
    target = request.target
    assert arrived.target.startswith(f"{target}&backjob-" if "?" in target else f"{target}?backjob-")
    below = evolve(arrived, target=signed.partition("?")[0] + "?" + arrived.query)
    assert world.jobs.signer.verify(below, world.clock.now()).request.target == signed


def test_the_path_of_the_base_url_is_not_part_of_the_mount_on_the_wire(
    world: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeTransport, "base_url", "https://shop.example/shop", raising=False)
    with served(here(path="/shop/page", mount="/shop")):
        request = world.job(world.start("https://shop.example/shop/work")).request
    assert request is not None
    assert (request.target, request.mount) == ("/work", "")
