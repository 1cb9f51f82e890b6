"""The public methods of `BackJob`, and that credentials never leave the process."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backjob.errors import (
    AddressUnknown,
    InvalidRequest,
    JobFailed,
    JobNotFound,
    NoCurrentRequest,
    StoreUnavailable,
    TooDeep,
    TooManyJobs,
)
from backjob.http.environ import listener_of
from backjob.http.listening import Listener, listener_at
from backjob.jobs import BackJob, engine_of
from backjob.model import Caller, Request, Status
from backjob.process import PerProcess
from backjob.signing import MessageSigner
from backjob.stores.cache import CacheStore
from backjob.stores.memory import MemoryStore
from backjob.stores.sqlite import SQLiteStore
from backjob.testing import FakeClock, recorded
from backjob.transports.sockets import SocketTransport
from backjob.worker.outcomes import Outcome
from tests.contracts.dict_cache import DictCache
from tests.unit.core import COOKIE, KEY, NOT_SENT, Bench, FakeTransport, Here, ManualMonitor, bench, served
from tests.unit.gateways import environ_of

DEADLINE = 60.0


@pytest.fixture
def world() -> Bench:
    return bench()


# --- states ---------------------------------------------------------------------------------------------------------


def test_status_describes_the_job_from_start_to_end(world: Bench) -> None:
    job_id = world.start(scope="reports", owner="ann", delay=3)
    began = world.clock.now()
    state = world.jobs.status(job_id)
    assert (state.status, state.progress, state.status_text) == (Status.STARTED, 0, "")
    assert (state.start_time, state.end_time) == (began + timedelta(seconds=3), None)
    assert (state.scope, state.owner, world.jobs.scope(job_id)) == ("reports", "ann", "reports")
    world.step(3)
    running = world.receive()
    with running.active():
        world.jobs.update(40, "Chugging along")
        world.jobs.finish("And done", {"href": "/export.csv"})
    assert world.jobs.status(job_id).status_text == "Chugging along"
    world.engine.worker.end(running, Outcome(200, "OK"))
    state = world.jobs.status(job_id)
    assert (state.status, state.progress, state.status_text) == (Status.COMPLETED, 100, "And done")
    assert (state.result, state.end_time) == ({"href": "/export.csv"}, world.clock.now())


def test_without_a_text_the_status_text_is_the_end_of_the_output(world: Bench) -> None:
    running = world.run()
    running.write("a" * 70_000 + "end")
    running.flush()
    text = world.jobs.status(running.job.id).status_text
    assert len(text) == 1 << 16
    assert text.endswith("aend")


def test_output_continues_at_the_next_offset(world: Bench) -> None:
    running = world.run()
    running.write("ä" * 50_000)
    running.flush()
    first = world.jobs.output(running.job.id)
    assert first.next_offset == 1 << 16
    rest = world.jobs.output(running.job.id, first.next_offset)
    assert first.text + rest.text == "ä" * 50_000
    assert world.jobs.output(running.job.id, rest.next_offset).text == ""


@pytest.mark.parametrize("offset", [-1, 1.0, True, "0", None])
def test_an_invalid_offset_is_refused(world: Bench, offset: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        world.jobs.output(world.start(), offset)
    assert caught.value.argument == "offset"


@pytest.mark.parametrize("limit", [0, -1, 1001, 1.5, True, None])
def test_a_limit_outside_of_1_to_1000_is_refused(world: Bench, limit: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        world.jobs.find(limit=limit)
    assert caught.value.argument == "limit"


@pytest.mark.parametrize("status", ["failed", "FAILED", 3])
def test_find_takes_a_status_and_no_name(world: Bench, status: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"Status\.FAILED") as caught:
        world.jobs.find(status=status)
    assert caught.value.argument == "status"


def test_find_returns_pages_of_jobs_newest_first(world: Bench) -> None:
    ids = []
    for n in range(5):
        ids.append(world.start(scope="a" if n % 2 else "b", owner=f"u{n}"))
        world.clock.advance(1)
    assert [state.id for state in world.jobs.find()] == ids[::-1]
    assert [state.id for state in world.jobs.find(limit=2, before=ids[3])] == [ids[2], ids[1]]
    assert [state.id for state in world.jobs.find(scope="a")] == [ids[3], ids[1]]
    assert [state.id for state in world.jobs.find(owner="u4")] == [ids[4]]
    assert world.jobs.find(status=Status.FAILED) == []
    assert world.jobs.find(before="unknown") == []
    assert asyncio.run(world.jobs.afind(owner="u4"))[0].id == ids[4]


def test_find_pages_by_position_even_if_the_last_job_is_gone(world: Bench) -> None:
    ids = []
    for _ in range(4):
        ids.append(world.start())
        world.clock.advance(1)
    position = world.jobs.find(limit=2)[-1].position
    world.jobs.delete(ids[2])
    assert [state.id for state in world.jobs.find(before=position)] == [ids[1], ids[0]]
    assert world.jobs.find(before=ids[2]) == []


def test_find_searches_queue_title_and_path(world: Bench) -> None:
    titled = world.start("/a", title="Invoices 2026")
    exported = world.start("/export/invoices", queue="exports")
    world.start("/other")
    assert {state.id for state in world.jobs.find(q="INVOICES")} == {titled, exported}
    assert [state.id for state in world.jobs.find(queue="exports", q="invoices")] == [exported]
    assert world.jobs.find(q="%") == []


@pytest.mark.parametrize("name", ["scope", "owner", "queue"])
def test_find_refuses_what_is_no_text(world: Bench, name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        world.jobs.find(**{name: 5})  # type: ignore[arg-type]
    assert caught.value.argument == name


@pytest.mark.parametrize("before", ["", "a.b", "a.1.2", 7, ".1"])
def test_a_position_that_is_none_is_refused(world: Bench, before: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        world.jobs.find(before=before)
    assert caught.value.argument == "before"


def test_a_job_in_a_list_has_only_the_end_of_its_output_as_text(world: Bench) -> None:
    running = world.run()
    with running.active():
        world.jobs.echo("x" * 5000 + "last line")
    world.clock.advance(1)
    world.step()
    world.engine.worker.end(running, Outcome(200))
    [state] = world.jobs.find()
    assert len(state.status_text) == 1024
    assert state.status_text.endswith("last line")
    assert len(world.jobs.status(state.id).status_text) > 5000


# --- unknown ids ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda jobs: jobs.status("unknown"),
        lambda jobs: jobs.scope("unknown"),
        lambda jobs: jobs.output("unknown"),
        lambda jobs: jobs.output("unknown", 5),
        lambda jobs: jobs.open_file("unknown"),
        lambda jobs: next(jobs.watch("unknown")),
        lambda jobs: jobs.join("unknown", timeout=1),
        lambda jobs: jobs.cancel("unknown"),
        lambda jobs: jobs.finish("done", job_id="unknown"),
        lambda jobs: jobs.fail("no", job_id="unknown"),
        lambda jobs: asyncio.run(jobs.astatus("unknown")),
        lambda jobs: asyncio.run(jobs.aoutput("unknown")),
        lambda jobs: asyncio.run(jobs.acancel("unknown")),
        lambda jobs: asyncio.run(jobs.ajoin("unknown")),
        lambda jobs: asyncio.run(jobs.afinish("x", job_id="unknown")),
    ],
)
def test_an_unknown_id_raises_job_not_found(world: Bench, call: Any) -> None:
    with pytest.raises(JobNotFound) as caught:
        call(world.jobs)
    assert isinstance(caught.value, LookupError)
    assert caught.value.job_id == "unknown"
    assert not world.jobs.exists("unknown")


@pytest.mark.parametrize("job_id", ["a\0b", "\ud800"], ids=ascii)
def test_an_id_that_no_store_can_keep_is_unknown(world: Bench, job_id: str) -> None:
    assert not world.jobs.exists(job_id)
    for call in (world.jobs.status, world.jobs.scope, world.jobs.output, world.jobs.cancel):
        with pytest.raises(JobNotFound):
            call(job_id)


def test_the_async_twins_of_what_reads_and_ends_jobs(world: Bench) -> None:
    first, second = world.start(scope="reports"), world.run().job.id

    async def use() -> None:
        assert await world.jobs.aexists(first)
        assert not await world.jobs.aexists("unknown")
        assert await world.jobs.ascope(first) == "reports"
        assert f"/backjob/{first}." in await world.jobs.aelement(first, cancel=True)
        await world.jobs.afail("by hand", job_id=second)
        assert await world.jobs.acleanup() == 0

    asyncio.run(use())
    assert world.jobs.status(second).status_text == "by hand"


def test_an_async_action_may_await_its_failure(world: Bench) -> None:
    running = world.run()
    with running.active(), pytest.raises(JobFailed, match="no such report"):
        asyncio.run(world.jobs.afail("no such report"))


# --- waiting --------------------------------------------------------------------------------------------------------


def test_join_returns_the_state_of_an_ended_job_at_once(world: Bench) -> None:
    running = world.run()
    world.engine.worker.end(running, Outcome(200, "OK"))
    assert world.jobs.join(running.job.id).status is Status.COMPLETED
    assert asyncio.run(world.jobs.ajoin(running.job.id)).status is Status.COMPLETED


def test_join_raises_after_its_timeout(world: Bench) -> None:
    job_id = world.start()
    with pytest.raises(TimeoutError, match="STARTED"):
        world.jobs.join(job_id, timeout=0)
    with pytest.raises(TimeoutError):
        asyncio.run(world.jobs.ajoin(job_id, timeout=0))
    with pytest.raises(TimeoutError, match="within 0 s"):
        world.jobs.join(job_id, timeout=timedelta(0))


def test_join_waits_for_the_end(world: Bench) -> None:
    running = world.run()
    states: list[Any] = []
    waiter = threading.Thread(target=lambda: states.append(world.jobs.join(running.job.id)))
    waiter.start()
    world.engine.worker.end(running, Outcome(500, "Oops"))
    waiter.join(DEADLINE)
    assert [state.status for state in states] == [Status.FAILED]


def test_watch_yields_each_change_and_stops_after_the_final_state(world: Bench) -> None:
    running = world.run()
    states = world.jobs.watch(running.job.id)
    assert next(states).progress == 0
    running.set_progress(50)
    assert next(states).progress == 50
    world.jobs.cancel(running.job.id)
    assert [state.status for state in states] == [Status.CANCELLED]


def test_awatch_yields_the_same_states_as_watch(world: Bench) -> None:
    running = world.run()

    async def follow() -> list[Status]:
        seen = []
        async for state in world.jobs.awatch(running.job.id):
            seen.append(state.status)
            if not state.status.is_final:
                assert await world.jobs.acancel(running.job.id)
        return seen

    assert asyncio.run(follow()) == [Status.IN_PROGRESS, Status.CANCELLED]


# --- ending from outside --------------------------------------------------------------------------------------------


def test_only_the_first_cancel_succeeds(world: Bench) -> None:
    job_id = world.start()
    assert world.jobs.cancel(job_id)
    assert not world.jobs.cancel(job_id)
    state = world.jobs.status(job_id)
    assert (state.status, state.status_text) == (Status.CANCELLED, "cancelled")
    assert len(world.ended) == 1
    world.step()
    world.step(60)
    assert not world.transport.sent


def test_finish_and_fail_by_job_id_end_that_job(world: Bench) -> None:
    first, second = world.start(), world.run().job.id
    assert world.jobs.finish("by hand", {"n": 1}, job_id=first) == ""
    world.jobs.fail("by hand", job_id=second)
    done, failed = world.jobs.status(first), world.jobs.status(second)
    assert (done.status, done.status_text, done.result, done.progress) == (Status.COMPLETED, "by hand", {"n": 1}, 100)
    assert (failed.status, failed.status_text) == (Status.FAILED, "by hand")
    world.jobs.fail("again", job_id=first)
    assert world.jobs.status(first) == done


def test_a_job_that_is_claimed_while_cancel_reads_it_is_cancelled(world: Bench) -> None:
    job_id = world.start()
    world.step()
    world.store.before["change"] = lambda: bench(clock=world.clock, store=world.store.store).receive(
        world.transport.sent[0]
    )
    assert world.jobs.cancel(job_id)
    assert world.job(job_id).status is Status.CANCELLED


# --- merging --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merge", ["pending", "unfinished"])
@pytest.mark.parametrize(
    "other",
    [
        {"path": "/other"},
        {"query": {"a": 2}},
        {"method": "PUT"},
        {"body": b"2"},
        {"scope": "other"},
        {"owner": "bob"},
    ],
    ids=str,
)
def test_only_identical_requests_merge(world: Bench, merge: str, other: dict[str, Any]) -> None:
    one: dict[str, Any] = {"path": "/x", "query": {"a": 1}, "method": "POST", "body": b"1", "owner": "ann", "delay": 9}
    first = world.start(**one, merge=merge)
    assert world.start(**one, merge=merge) == first
    assert world.start(**{**one, **other}, merge=merge) != first
    assert world.start(**one) != first
    with served():
        assert world.jobs.start(**one, merge=merge) != first  # type: ignore[arg-type]


def test_a_merge_moves_a_delayed_job_to_the_newest_start_time(world: Bench) -> None:
    job_id = world.start(merge="pending", delay=10)
    world.clock.advance(5)
    world.start(merge="pending", delay=50)
    job = world.job(job_id)
    assert job.start_time == world.clock.now() + timedelta(seconds=50)
    assert job.deliver_by is None


def test_an_ended_job_is_not_joined(world: Bench) -> None:
    for merge in ("pending", "unfinished"):
        job_id = world.start(merge=merge, delay=10)
        world.jobs.cancel(job_id)
        assert world.start(merge=merge, delay=10) != job_id


# --- owners, depth, address -----------------------------------------------------------------------------------------


def test_the_owner_defaults_to_the_owner_hooks_result() -> None:
    world = bench(owner=lambda request: request.header("X-User"))
    with served(Here(Request("GET", "/", (("X-User", "ann"),)))):
        ids = [world.jobs.start("/a"), world.jobs.start("/b", owner="bob"), world.jobs.start("/c", owner=None)]
        assert world.engine.current_owner() == "ann"
    assert [world.job(job_id).owner for job_id in ids] == ["ann", "bob", None]
    assert world.engine.current_owner() is None
    assert world.job(world.start()).owner is None


def test_an_owner_hook_must_return_text() -> None:
    world = bench(owner=lambda request: 5)
    with served(), pytest.raises(InvalidRequest) as caught:
        world.jobs.start("/a")
    assert caught.value.argument == "owner"
    assert not world.store.calls


def test_a_chain_of_jobs_that_start_jobs_is_limited() -> None:
    world = bench(max_depth=2)
    running = world.run()
    for depth in (1, 2):
        with running.active():
            world.start()
        world.step()
        running = world.receive()
        assert running.job.depth == depth
    with running.active(), pytest.raises(TooDeep) as caught:
        world.start()
    assert caught.value.depth == 3


def test_a_job_that_starts_two_of_itself_stops_at_the_limit() -> None:
    world = bench(max_chain=10, max_depth=99)
    world.start()
    refused = 0
    while world.step() and world.transport.sent:
        running = world.receive(world.transport.sent.pop())
        with running.active():
            for _ in range(2):
                try:
                    world.start()
                except TooManyJobs:
                    refused += 1
        world.engine.worker.end(running, Outcome(200, "OK"))
    jobs = world.jobs.find(limit=100)
    assert (len(jobs), refused) == (10, 20 - 9)
    roots = {world.job(state.id).root for state in jobs}
    assert roots == {None, jobs[-1].id}
    assert world.job(world.start()).root is None


def test_a_store_that_can_not_list_does_not_bound_a_chain() -> None:
    world = bench(max_chain=1, store=CacheStore(DictCache(), clock=(clock := FakeClock())), clock=clock)
    with world.run().active():
        assert world.jobs.exists(world.start())


def test_start_needs_an_address_and_names_the_setting() -> None:
    made: list[str] = []

    def make(base_url: str) -> FakeTransport:
        made.append(base_url)
        return FakeTransport()

    jobs = BackJob(store=MemoryStore(), transport=make, signer=MessageSigner(KEY))
    engine = engine_of(jobs)
    engine.monitors = PerProcess(lambda: ManualMonitor(engine.delivery_parts))
    with pytest.raises(
        AddressUnknown, match=r'no request .* set the base URL: .*SocketTransport\("https://your.site"\)'
    ):
        jobs.start("/a", as_current_user=False)
    engine.request_arrived(partial(listener_of, environ_of()))
    with pytest.raises(AddressUnknown, match=r"does not show the socket .*: set the base URL: "):
        jobs.start("/a", as_current_user=False)
    engine.request_arrived(lambda: Listener(socket.AF_UNIX, "/run/app.sock"))
    with pytest.raises(AddressUnknown, match=r"unix socket: set the base URL: .*unix:/path"):
        jobs.start("/a", as_current_user=False)
    assert jobs.find() == []
    for port in (8000, 9000, 8000):
        engine.request_arrived(partial(listener_at, "127.0.0.1", port))
    assert made == [f"http{tls}://127.0.0.1:{port}" for port in (8000, 9000) for tls in ("", "s")]
    assert jobs.status(jobs.start("/a", as_current_user=False)).status is Status.STARTED
    jobs.close()


@pytest.mark.parametrize("address", [FakeTransport(in_process=False), SocketTransport], ids=["configured", "unknown"])
def test_a_test_clients_request_starts_nothing_that_leaves_the_process(address: Any) -> None:
    with BackJob(store=MemoryStore(), transport=address, signer=MessageSigner(KEY)) as jobs:
        with served(Here(is_test_client=True)), pytest.raises(AddressUnknown, match=r"backjob.testing.immediate\(\)"):
            jobs.start("/a")
        assert jobs.find() == []
        with recorded(jobs), served(Here(is_test_client=True)):
            jobs.start("/a")


# --- status URLs ----------------------------------------------------------------------------------------------------


def test_a_status_url_grants_its_right_for_its_job_only(world: Bench) -> None:
    job_id = world.start()
    url = world.jobs.status_url(job_id)
    assert url.startswith(f"/backjob/{job_id}.")
    view, cancel = (world.jobs.status_url(job_id, cancel=which).partition(".")[2] for which in (False, True))
    assert (world.engine.rights(job_id, view), world.engine.rights(job_id, cancel)) == ("view", "cancel")
    assert world.engine.rights("another", view) is None
    assert world.engine.rights(job_id, view[:-1]) is None
    with served(Here(mount="/shop")):
        assert world.jobs.status_url(job_id) == "/shop" + url


@pytest.mark.parametrize(
    ("mount", "shown"),
    [
        ("//evil.example", "/evil.example"),
        ("///evil.example/", "/evil.example"),
        ("https://evil.example", "/https://evil.example"),
        ("evil.example", "/evil.example"),
        ("/\\evil.example", "/%5Cevil.example"),
        ("\\\\evil.example", "/%5C%5Cevil.example"),
        ("/\t/evil.example", "/%09/evil.example"),
        ("/\r\nSet-Cookie: a=b", "/%0D%0ASet-Cookie:%20a=b"),
        ("javascript:alert(1)", "/javascript:alert(1)"),
        ("/shop/", "/shop"),
        ("/sh%20op", "/sh%20op"),
        ("/", ""),
    ],
)
def test_a_status_url_is_a_path_on_this_host_whatever_the_mount(world: Bench, mount: str, shown: str) -> None:
    job_id = world.start()
    with served(Here(mount=mount)):
        assert world.jobs.status_url(job_id).startswith(f"{shown}/backjob/{job_id}.")


def test_an_absolute_status_url_is_below_the_public_url() -> None:
    world = bench(public_url="https://www.Shop.example:443/intranet/")
    job_id = world.start()
    with served(Here(mount="/elsewhere")):
        url = world.jobs.status_url(job_id, absolute=True)
    assert url.startswith(f"https://www.shop.example/intranet/backjob/{job_id}.v")
    assert world.jobs.status_url(job_id, cancel=True, absolute=True).partition(".c")[1]


def test_without_a_public_url_no_host_of_a_client_becomes_part_of_an_absolute_url(world: Bench) -> None:
    with served(), pytest.raises(InvalidRequest, match="absolute: needs PUBLIC_URL"):
        world.jobs.status_url(world.start(), absolute=True)


@pytest.mark.parametrize(
    "url", ["shop.example", "ftp://shop.example", "https://shop.example/?a=1", "", 7, "https://a b"]
)
def test_an_invalid_public_url_is_refused(url: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        bench(public_url=url)
    assert caught.value.argument == "public_url"


@pytest.mark.parametrize(
    "origins",
    ["https://a.example", ["*"], ["null"], ["https://a.example/path"], ["https://*.example"], ["a.example"], [7], 7],
)
def test_an_invalid_trusted_origin_is_refused(origins: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        bench(trusted_origins=origins)
    assert caught.value.argument == "trusted_origins"


def test_a_trusted_origin_is_as_browsers_write_it() -> None:
    world = bench(trusted_origins=["HTTPS://App.Example:443", "http://localhost:5173"])
    assert world.engine.trusted_origins == ("https://app.example", "http://localhost:5173")


# --- async, contexts ------------------------------------------------------------------------------------------------


def test_the_async_methods_do_the_same_as_the_sync_ones(world: Bench) -> None:
    async def go() -> None:
        with served():
            job_id = await world.jobs.astart("/work", {"a": 1}, method="POST", json={"b": 2}, scope="s")
        assert (await world.jobs.astatus(job_id)).scope == "s"
        assert (await world.jobs.aoutput(job_id)).text == ""
        assert await world.jobs.acancel(job_id)
        assert not await world.jobs.acancel(job_id)
        with pytest.raises(NoCurrentRequest):
            await world.jobs.astart("/work")

    asyncio.run(go())


def test_the_context_manager_closes_transport_and_store() -> None:
    world = bench()
    with world.jobs as jobs:
        assert jobs is world.jobs
    assert world.transport.closed == 1
    assert "close" in world.store.calls


def test_the_async_context_manager_closes_too_and_the_event_loop_goes_on_meanwhile() -> None:
    world = bench()
    goes_on = threading.Event()
    world.store.before["close"] = lambda: waited.append(goes_on.wait(DEADLINE))
    waited: list[bool] = []

    async def go() -> None:
        async with world.jobs as jobs:
            assert jobs is world.jobs
            asyncio.get_running_loop().call_later(0.01, goes_on.set)

    asyncio.run(go())
    assert waited == [True]
    assert world.transport.closed == 1


# --- credentials stay in the process ------------------------------------------------------------------------------------------


def run_to_every_end(world: Bench, here: Here) -> list[str]:
    """Run jobs as the current user to every kind of end; return the reprs of all values and rows."""
    shown: list[str] = []
    with served(here):
        for n in range(6):
            world.jobs.start(f"/{n}", owner="ann", merge="unfinished")
    world.step()
    sent = list(world.transport.sent)
    for one in sent:
        shown += [repr(one.delivery), repr(one)]
    shown += [repr(delivery) for delivery in world.monitor._deliveries._by_id.values()]
    sent[0].fail(NOT_SENT)
    sent[1].answer(302, "Found", (("Location", "/login"),))
    world.engine.worker.end(world.receive(sent[2]), Outcome(200, "OK"))
    world.engine.worker.end(world.receive(sent[3]), Outcome(error=ValueError("no")))
    world.store.down = {"change", "get"}
    sent[4].fail(RuntimeError("oops"))
    world.step(1)
    world.store.down = set()
    world.store.broken = {"change": ZeroDivisionError()}
    world.step(1)
    world.store.broken = {}
    request = sent[5].delivery.sign()
    shown.append(repr(request))
    for _ in range(30):
        world.step(60)
    jobs = world.jobs.find()
    assert {state.status for state in jobs} == {Status.COMPLETED, Status.FAILED}
    return shown + [repr(state) for state in jobs] + [repr(world.job(state.id)) for state in jobs]


@pytest.mark.parametrize("seal", [False, True])
def test_credentials_are_in_no_log_repr_or_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], seal: bool
) -> None:
    clock = FakeClock()
    store = SQLiteStore(tmp_path / "jobs.db", clock=clock)
    world = bench(clock=clock, store=store, seal=seal, credential_headers=["X-Api-Key"])
    here = Here(
        Request("GET", "/", (("Cookie", COOKIE), ("Authorization", "Bearer 0ddT0ken"), ("X-Api-Key", "0ddApiK3y"))),
        Caller("https", "shop.example", "192.0.2.7"),
    )
    with caplog.at_level(logging.DEBUG):
        shown = "".join(run_to_every_end(world, here)) + caplog.text + "".join(capsys.readouterr())
    files = b"".join(file.read_bytes() for file in sorted(tmp_path.iterdir()))
    assert "shop.example" not in shown
    for secret in ("0ddC00kie", "0ddT0ken", "0ddApiK3y", "Backjob-Credentials: "):
        assert secret not in shown
        assert secret.encode() not in files
    assert len(files) > 1000
    assert caplog.records
    store.close()


def test_an_error_of_start_shows_no_credentials(world: Bench) -> None:
    with served(), pytest.raises(InvalidRequest) as caught:
        world.jobs.start("/work", headers={"X-A": "a\nb", "Authorization": "Bearer 0ddT0ken"})
    assert "0dd" not in str(caught.value)
    with pytest.raises(InvalidRequest) as caught:
        world.jobs.start("/work", headers={"Authorization": "Bearer 0ddT0ken\n"}, as_current_user=False)
    assert "0dd" not in str(caught.value)


def test_a_job_is_accepted_if_only_the_stores_reply_was_lost(world: Bench) -> None:
    world.store.lost = {"create"}
    job_id = world.start()
    assert world.job(job_id).status is Status.STARTED
    world.step()
    assert len(world.transport.sent) == 1


def test_an_unavailable_store_accepts_no_job(world: Bench) -> None:
    world.store.down = {"create", "get"}
    with pytest.raises(StoreUnavailable):
        world.start()
    world.store.down = set()
    assert world.jobs.find() == []
