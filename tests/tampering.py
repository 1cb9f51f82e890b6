"""Changes that a writer of the store could make to a job's row, for tests that make them on each store."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import pytest
from attrs import evolve, frozen

from backjob import Status
from backjob.lifecycle import ROW_CHANGED
from backjob.model import Caller, Headers, Request
from backjob.protocols import Store
from backjob.signing import MessageSigner
from backjob.testing import FakeClock
from backjob.worker.replies import Refusal
from tests.unit.core import Bench, Here, bench, served

__all__ = [
    "EACH_COLUMN",
    "KINDS",
    "TAMPERINGS",
    "Rows",
    "Tampering",
    "check_claimed",
    "check_joined",
    "check_kinds",
    "check_sent",
]

Open: TypeAlias = "Callable[[FakeClock], Store]"
"""Opens the store, as one process does."""

_LEASE: Final = 31.0  # s: longer than a lease


@frozen
class Rows:
    """Reads and writes columns of a job, outside of backjob. The body of its request is the column ``body``."""

    read: Callable[[str, str], Any]
    write: Callable[[str, str, Any], None]

    def copy(self, source: str, target: str, *columns: str) -> None:
        for column in columns:
            self.write(target, column, self.read(source, column))


@frozen
class Tampering:
    """A change to the row of Eve's job, beside that of the admin. Both have sealed or else held credentials.

    ``runs``: after the request was signed it changes nothing about the job that runs. ``takes``: it takes away what an
    anonymous job does not have. ``is_variant``: another one changes the same column.
    """

    name: str
    act: Callable[[Rows, str, str], None]
    seal: bool = True
    runs: bool = False
    takes: bool = False
    is_variant: bool = False

    def __str__(self) -> str:
        return self.name


def _request(change: Callable[[list[Any]], None]) -> Callable[[Rows, str, str], None]:
    """Change the JSON in the column of the request: method, target, raw, headers, caller, mount."""

    def act(rows: Rows, eve: str, _: str) -> None:
        parts = json.loads(rows.read(eve, "request"))
        change(parts)
        rows.write(eve, "request", json.dumps(parts))

    return act


def _set(column: str, value: object) -> Callable[[Rows, str, str], None]:
    return lambda rows, eve, _: rows.write(eve, column, value)


def _copy(*columns: str) -> Callable[[Rows, str, str], None]:
    return lambda rows, eve, admin: rows.copy(admin, eve, *columns)


TAMPERINGS: Final = (
    Tampering("another path", _request(lambda parts: parts.__setitem__(1, "/admin/delete"))),
    Tampering("another query", _request(lambda parts: parts.__setitem__(1, parts[1] + "&all=1")), is_variant=True),
    Tampering("another method", _request(lambda parts: parts.__setitem__(0, "DELETE")), is_variant=True),
    Tampering("one more header field", _request(lambda parts: parts[3].append(["X-Tenant", "other"])), is_variant=True),
    Tampering("another client address", _request(lambda parts: parts[4].__setitem__(2, "127.0.0.1"))),
    Tampering("another host", _request(lambda parts: parts[4].__setitem__(1, "evil.example")), is_variant=True),
    Tampering("no caller", _request(lambda parts: parts.__setitem__(4, None)), is_variant=True),
    Tampering("a request that is not JSON", _set("request", "GET /work")),
    Tampering("a request of another shape", _set("request", "[[],{}]"), is_variant=True),
    Tampering("a mount", _request(lambda parts: parts.append("/work")), is_variant=True),
    # The signature covers the body that was sent.
    Tampering("another body", _set("body", b"amount=1000000"), runs=True),
    Tampering("another owner", _set("owner", "admin")),
    Tampering("no owner", _set("owner", None), is_variant=True),
    # Whoever claims a job has its credentials already.
    Tampering("the admin's credentials", _copy("sealed"), runs=True),
    Tampering("no credentials", _set("sealed", None), runs=True, takes=True),
    Tampering("the admin's credentials and proof", _copy("sealed", "proof")),
    Tampering("the admin's whole row", _copy("request", "body", "owner", "sealed", "proof")),
    Tampering("held instead of sealed", _set("held", 1)),
    Tampering("anonymous instead of held", _set("held", 0), seal=False, takes=True),
    Tampering("as its owner instead of with credentials", _set("as_owner", 1)),
    Tampering("as its owner instead of anonymous", _set("as_owner", 1), seal=False, is_variant=True),
    Tampering("no proof", _set("proof", None)),
    Tampering("the admin's proof", _copy("proof"), is_variant=True),
    Tampering("another label", _set("label", "another")),
    Tampering("no label", _set("label", "")),
)

EACH_COLUMN: Final = tuple([one for one in TAMPERINGS if not one.is_variant])
"""For tests on database servers."""


def _processes(open_store: Open, *, seal: bool) -> Callable[[], Bench]:
    """Return a function that begins a process of one application. No other test has its key."""
    clock, key = FakeClock(), secrets.token_urlsafe(32)

    def begin() -> Bench:
        return bench(store=open_store(clock), clock=clock, seal=seal, signer=MessageSigner(key))

    return begin


def _start(one: Bench, owner: str, **options: Any) -> str:
    page = Request("GET", "/page", (("Cookie", f"session={owner}"),))
    with served(Here(page, Caller("https", "shop.example", "192.0.2.7"))):
        return one.jobs.start("/work?n=1", method="POST", body=b"amount=1", owner=owner, **options)


def check_sent(open_store: Open, rows: Rows, tampering: Tampering) -> None:
    """Change the row of a waiting job: no process sends it, and it ends FAILED; others' jobs are sent."""
    begin = _processes(open_store, seal=tampering.seal)
    first = begin()
    eve, admin = _start(first, "eve"), _start(first, "admin", delay=_LEASE)
    anonymous = _start(first, "eve", as_current_user=False)
    tampering.act(rows, eve, admin)
    if not tampering.takes:
        tampering.act(rows, anonymous, admin)
    other = begin()
    other.step(_LEASE)
    other.step(_LEASE)
    sent = {one.delivery.job_id for one in other.transport.sent}
    # Only the first process has credentials that are held.
    assert sent == ({admin} if tampering.seal else set()) | ({anonymous} if tampering.takes else set())
    if "label" in tampering.name:
        for job_id in (eve, anonymous):
            assert not other.jobs.exists(job_id)
            assert other.job(job_id).status is Status.STARTED
        return
    state = other.jobs.status(eve)
    assert state.status is Status.FAILED
    assert "changed" in state.status_text  # for credentials of another row there is another text
    assert eve in [state.id for state in other.ended]
    if not tampering.takes:
        assert other.jobs.status(anonymous).status is Status.FAILED
        assert other.jobs.status(anonymous).status_text == ROW_CHANGED


def check_claimed(open_store: Open, rows: Rows, tampering: Tampering) -> None:
    """Change the row of a job whose request is on its way: it does not run, or as the request that was signed."""
    one = _processes(open_store, seal=tampering.seal)()
    eve, admin = _start(one, "eve"), _start(one, "admin")
    one.step()
    on_the_way = {sent.delivery.job_id: sent for sent in one.transport.sent}
    tampering.act(rows, eve, admin)
    if tampering.runs:
        running = one.receive(on_the_way[eve])
        assert (running.job.owner, running.job.id) == ("eve", eve)
    else:
        with pytest.raises(Refusal, match="changed outside of backjob"):
            one.receive(on_the_way[eve])
        assert one.job(eve).status is Status.FAILED
        assert one.job(eve).status_text == ROW_CHANGED
    assert one.receive(on_the_way[admin]).job.owner == "admin"


def check_joined(open_store: Open, rows: Rows) -> None:
    """Move the merge key of the admin's job to Eve's row: her job gets none of the admin's credentials."""
    one = _processes(open_store, seal=False)()
    admin, eve = _start(one, "admin", delay=5, merge="pending"), _start(one, "eve", delay=9)
    assert _start(one, "admin", delay=5, merge="pending") == admin
    key = rows.read(admin, "merge_key")
    rows.write(admin, "merge_key", None)
    rows.write(eve, "merge_key", key)
    again = _start(one, "admin", delay=5, merge="pending")
    assert again not in (admin, eve)
    one.step(9)
    cookies = {sent.delivery.job_id: sent.delivery.sign().header("Cookie") for sent in one.transport.sent}
    assert cookies == {admin: "session=admin", again: "session=admin", eve: "session=eve"}


# --- unchanged rows -------------------------------------------------------------------------------------------

_ODD: Final = "".join(map(chr, (*range(0x20, 0x7F), *range(0xA0, 0x100))))
_FORWARDED: Headers = (("X-Forwarded-For", "192.0.2.7, 10.0.0.1"), ("Forwarded", 'for="[2001:db8::1]:80";host=x'))
_COOKIES: Headers = (("Cookie", "name=voil\xe0\x85; b=\xff\xa0"), ("Authorization", "Basic Zm9vOmLDpHI="))

KINDS: Final[dict[str, tuple[Here, dict[str, Any]]]] = {
    "as plain as can be": (Here(Request("GET", "/page")), {"as_current_user": False}),
    "a custom method": (Here(), {"method": "M-SEARCH"}),
    "a header field of any bytes": (Here(), {"headers": {"X-Odd": f"a{_ODD}z", "X-Empty": ""}}),
    "an owner and a scope of any characters": (Here(), {"owner": "Zoë 𝄞 'x\" \\ é\u2028", "scope": "é\u202e%_"}),
    "the longest owner": (Here(), {"owner": "\U0001f600" * 255}),
    "a body of any bytes": (Here(), {"method": "POST", "body": bytes(range(256)) * 300}),
    "a form": (Here(), {"method": "POST", "form": {"name": "Ünal", "n": 5}}),
    "credentials of any bytes": (Here(Request("GET", "/page", _COOKIES)), {}),
    "a caller behind proxies": (Here(caller=Caller("https", "büro.example:8443", "2001:db8::1", _FORWARDED)), {}),
    "a mount": (Here(Request("GET", "/shop%20a/page", _COOKIES), mount="/shop%20a"), {}),
    "a query of any characters": (Here(), {"query": {"q": "ß/?#[]@!$&'()*+,;=%00 \u20ac", "n": [1, 2]}}),
}
"""A page, and the arguments of `start()` on it."""


def check_kinds(open_store: Open, *, seal: bool) -> None:
    """Join a job of each kind, and send it by another process that reads it from the store, and claim it there."""
    begin = _processes(open_store, seal=seal)
    first = begin()
    ids: dict[str, str] = {}
    for name, (here, options) in KINDS.items():
        path = here.mount.replace("%20", " ") + "/work"
        arguments: dict[str, Any] = {"merge": "unfinished", "owner": "ann", "scope": name, **options}
        if not seal:
            arguments["as_current_user"] = False
        with served(here):
            job_id = first.jobs.start(path, **arguments)
            assert first.jobs.start(path, **arguments) == job_id, name
        ids[job_id] = name
    other = begin()
    other.step(_LEASE)
    sent = {ids[one.delivery.job_id]: one for one in other.transport.sent}
    assert sorted(sent) == sorted(KINDS), {ids[key]: other.job(key).status_text for key in ids}
    for name, one in sent.items():
        here, options = KINDS[name]
        request = one.delivery.sign()
        routed = evolve(request, target=request.target.removeprefix(here.mount))
        opened = other.engine.worker.open(routed)
        assert opened is not None, name
        running = other.engine.worker.claim(opened, request.body)
        assert running.job.owner == options.get("owner", "ann"), name
        assert request.method == options.get("method", "GET"), name
        if seal and options.get("as_current_user", True):
            assert request.header("Cookie") == here.request.header("Cookie"), name
