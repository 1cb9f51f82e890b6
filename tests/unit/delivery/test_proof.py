"""Proof before anything leaves: probes, their answers, and what waits meanwhile."""

from __future__ import annotations

import logging
import socket
from itertools import count, pairwise
from typing import Any

import pytest
from attrs import evolve

from backjob.delivery.addresses import Addresses, Destination
from backjob.delivery.proof import Proof
from backjob.errors import AddressUnknown, ConnectionLost, NotSent
from backjob.http.listening import Listener, listener_at
from backjob.http.marks import MARK_HEADER, MARK_LABEL, mark
from backjob.lifecycle import REFUSAL_HEADER
from backjob.model import Caller, Headers, Request, Status
from backjob.process import PerProcess
from backjob.signing import MessageSigner
from backjob.worker.replies import Reply
from tests.unit.core import COOKIE, KEY, Bench, FakeTransport, Here, ManualMonitor, Sent, bench, served

OTHER_KEY = "another application's, 7Yd-8sQ2vXk7RzL0mTf"


@pytest.fixture
def world() -> Bench:
    return bench(transport=FakeTransport(in_process=False))


def probes(world: Bench) -> list[Sent]:
    return [sent for sent in world.transport.sent if sent.delivery.attempt == 0]


def works(world: Bench) -> list[Sent]:
    return [sent for sent in world.transport.sent if sent.delivery.attempt != 0]


def reply(answering: Bench, sent: Sent, port: int | None = None) -> Reply:
    """The answer of an application's middleware to a probe."""

    def listener_of() -> Listener:
        if port is None:
            raise AddressUnknown("no socket")
        return listener_at("127.0.0.1", port)

    with pytest.raises(Reply) as caught:
        answering.engine.worker.open(sent.delivery.sign(), listener_of=listener_of)
    return caught.value


def prove(world: Bench, sent: Sent | None = None, port: int | None = None) -> None:
    sent = sent or probes(world)[-1]
    answer = reply(world, sent, port)
    sent.answer(answer.status, answer.reason, answer.headers)
    world.step()


def why(world: Bench) -> tuple[str | None, str]:
    """Why jobs wait, in one word and in words."""
    proof = world.monitor._deliveries._proof
    return proof.waiting, proof.reason


def show(world: Bench, port: int, host: str = "127.0.0.1", tls: bool | None = False) -> None:
    """A request shows an address of the server."""
    world.engine.request_arrived(lambda: Listener(socket.AF_INET, (host, port), tls))


def learning(world: Bench) -> dict[str, FakeTransport]:
    """Have the world learn its addresses. Returns the transports by base URL; all record into the same list."""
    made: dict[str, FakeTransport] = {}

    def make(base_url: str) -> FakeTransport:
        made[base_url] = FakeTransport(in_process=False, sent=world.transport.sent)
        return made[base_url]

    world.engine.addresses = Addresses(make)
    return made


# --- what leaves ----------------------------------------------------------------------------------------------------


def test_nothing_but_a_bare_probe_leaves_before_the_address_has_proven_itself(world: Bench) -> None:
    with served():
        world.start(as_current_user=True, method="POST", body=b"secret", headers={"X-Token": "secret"})
    world.step()
    [probe] = world.transport.sent
    request = probe.delivery.sign()
    assert (request.method, request.path, request.body) == ("GET", "/backjob/probe", b"")
    assert {name for name, _ in request.headers} == {"User-Agent"}
    assert "secret" not in repr(request.target)
    assert COOKIE not in repr(request.headers)
    for _ in range(100):
        world.step(5)
    assert len(world.transport.sent) == 1


def test_after_the_proof_all_waiting_jobs_are_sent(world: Bench) -> None:
    for _ in range(5):
        world.start()
    world.step()
    assert (len(probes(world)), len(works(world))) == (1, 0)
    prove(world)
    assert (len(probes(world)), len(works(world))) == (1, 5)
    world.start()
    world.step(59)
    assert (len(probes(world)), len(works(world))) == (1, 6)


def test_a_probe_claims_no_job(world: Bench) -> None:
    world.start()
    world.step()
    answer = reply(world, probes(world)[0])
    assert (answer.status, str(answer)) == (200, "")
    assert ("Cache-Control", "no-store") in answer.headers
    assert [job.status for job in world.jobs.find()] == [Status.STARTED]


def _answered(world: Bench, sent: Sent, **changes: Any) -> None:
    request = sent.delivery.sign()
    opened = world.engine.worker.open(request)
    assert opened is not None
    running = world.engine.worker.claim(opened, request.body)
    sent.answer(**{"headers": running.headers, **changes})


@pytest.mark.parametrize(
    ("outcome", "is_proven"),
    [
        (_answered, True),
        (lambda world, sent: _answered(world, sent, headers=()), False),
        (lambda world, sent: _answered(world, sent, headers=((MARK_HEADER, "- 00"),)), False),
        (lambda _, sent: sent.fail(NotSent("refused")), False),
        (lambda _, sent: sent.fail(ConnectionLost("EOF")), False),
        (lambda _, sent: sent.answer(502), False),
    ],
    ids=["marked", "no mark", "a false mark", "not sent", "lost", "a proxy's error"],
)
def test_the_proof_lasts_while_answers_are_marked(world: Bench, outcome: Any, is_proven: bool) -> None:
    world.start()
    world.step()
    prove(world)
    outcome(world, works(world)[0])
    world.step()
    before = len(works(world))
    world.start()
    world.step(50)
    assert (len(works(world)) > before) == is_proven
    assert len(probes(world)) == (1 if is_proven else 2)


def test_the_proof_ends_after_a_minute_without_an_answer(world: Bench) -> None:
    world.start()
    world.step()
    prove(world)
    world.start()
    world.step(45)
    _answered(world, works(world)[1])
    world.start()
    world.step(45)
    assert (len(probes(world)), len(works(world))) == (1, 3)
    world.start()
    world.step(60)
    assert (len(probes(world)), len(works(world))) == (2, 3)
    prove(world)
    assert len(works(world)) == 4


@pytest.mark.parametrize("seconds", [59, 3600])
def test_the_answer_to_an_old_request_proves_nothing_about_the_next_connection(world: Bench, seconds: float) -> None:
    """A server that shuts down answers long jobs after it has given up its port."""
    world.start(error_timeout=7200)
    world.step()
    prove(world)
    world.receive(works(world)[0])
    world.step(seconds)
    works(world)[0].answer(headers=_marks(world, works(world)[0]))
    world.step()
    world.start()
    world.step(2)
    assert (len(probes(world)), len(works(world))) == (2, 1)


def test_an_answer_that_renews_the_proof_ends_the_reason_to_wait(world: Bench) -> None:
    world.start()
    world.step()
    prove(world)
    world.start()
    world.step(59)
    world.start()
    world.step(2)
    world.step(10.1)
    assert why(world)[0] == "connection"
    _answered(world, works(world)[1])
    world.step()
    assert len(works(world)) == 3
    assert why(world) == (None, "")


def _marks(world: Bench, sent: Sent) -> Headers:
    return mark(world.engine.signer.derive(MARK_LABEL)[0], sent.delivery.job_id, 1, sent.delivery.attempt, None)


def test_worker_requests_go_to_the_very_address_that_answered_the_probe(world: Bench) -> None:
    world.start()
    world.step()
    [probe] = probes(world)
    assert probe.delivery.reached is None
    probe.delivery.reached = "127.0.0.1"
    prove(world)
    assert works(world)[0].delivery.reached == "127.0.0.1"
    works(world)[0].fail(NotSent("refused"))
    world.step()
    world.step(1)
    assert probes(world)[1].delivery.reached is None


def test_a_job_whose_proof_ends_just_before_it_is_sent_waits_for_the_next_one(
    world: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request may show a new address at any moment, in another thread."""
    learning(world)
    show(world, 8000)
    with served():
        world.start(as_current_user=True)
    world.step()
    look = Proof.destination
    looks = count(1)

    def look_and_move(proof: Proof) -> Destination | None:
        found = look(proof)
        if found is not None and next(looks) == 1:
            show(world, 9000)
        return found

    monkeypatch.setattr(Proof, "destination", look_and_move)
    prove(world, port=8000)
    for _ in range(3):
        world.step(1)
        for sent in probes(world):
            if not sent.future.done():
                prove(world, sent, port=8000)
    assert len(works(world)) == 1


# --- answers that prove nothing -------------------------------------------------------------------------------------


def _refused(key: str) -> Any:
    def outcome(sent: Sent) -> None:
        answer = bench(transport=FakeTransport())
        answer.engine.worker._signer = MessageSigner(key)
        with pytest.raises(Reply) as caught:
            answer.engine.worker.open(sent.delivery.sign())
        sent.answer(caught.value.status, caught.value.reason, caught.value.headers)

    return outcome


@pytest.mark.parametrize(
    ("outcome", "waiting", "reason"),
    [
        (lambda sent: sent.fail(NotSent("connection refused: 127.0.0.1:9")), "connection", "connection refused"),
        (lambda sent: sent.fail(ConnectionLost("the response is not HTTP/1")), "connection", "not HTTP/1"),
        (lambda sent: sent.answer(200, body=b"hello"), "proof", "200 OK: not by this application's middleware"),
        (lambda sent: sent.answer(302, "F", (("Location", "/login"),)), "proof", "302 Found → /login: not by"),
        (lambda sent: sent.answer(200, "OK", ((MARK_HEADER, f"- {'0' * 64}"),)), "proof", "not by this application"),
        (lambda sent: sent.answer(200, "OK", ((MARK_HEADER, "ÿ \x80"),)), "proof", "not by this application"),
        (lambda sent: sent.answer(403, "F", ((REFUSAL_HEADER, "signature"),)), "proof", "(signature)"),
        (_refused(OTHER_KEY), "proof", "(unknown-key)"),
    ],
    ids=["refused", "garbage", "a page", "a login page", "a false mark", "a strange mark", "a refusal", "another key"],
)
def test_a_job_waits_until_the_address_proves_itself_and_the_reason_is_known(
    world: Bench, caplog: pytest.LogCaptureFixture, outcome: Any, waiting: str, reason: str
) -> None:
    job_id = world.start()
    for _ in range(6):
        world.step(0.4)
        if not probes(world)[-1].future.done():
            outcome(probes(world)[-1])
            world.step()
    assert works(world) == []
    assert why(world)[0] == waiting
    assert reason in why(world)[1]
    [warning] = [record for record in caplog.records if record.levelno >= logging.WARNING and "probe" in record.message]
    assert "FakeTransport" in warning.message
    assert reason in warning.message
    assert "check the base URL" in warning.message
    world.step(10)
    prove(world)
    assert world.receive().job.id == job_id
    assert why(world) == (None, "")


def test_what_a_stranger_answers_neither_begins_a_line_of_the_log_nor_fills_it(
    world: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    world.start()
    world.step()
    forged = "/\r\nERROR forged\x1b[31m" + "x" * 60_000
    probes(world)[0].answer(302, "Found", (("Location", forged),))
    world.step()
    [warning] = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.isprintable()
    assert len(warning) < 1000


@pytest.mark.parametrize(
    ("outcome", "waiting", "text"),
    [
        (lambda sent: sent.fail(NotSent("refused")), "connection", "no connection to the application yet"),
        (lambda sent: sent.answer(200), "proof", "no answer from this application at its address yet"),
    ],
)
def test_the_state_of_each_waiting_job_says_why_and_is_written_once(
    world: Bench, outcome: Any, waiting: str, text: str
) -> None:
    ids = [world.start() for _ in range(3)]
    world.step()
    assert [world.jobs.status(job_id).waiting_for for job_id in ids] == [None] * 3
    world.transport.script = outcome
    outcome(probes(world)[0])
    world.step()
    writes = world.store.count("change")
    for _ in range(20):
        world.step(0.5)
    states = [world.jobs.status(job_id) for job_id in ids]
    assert [(state.waiting_for, state.status_text) for state in states] == [(waiting, text)] * 3
    assert world.store.count("change") == writes == 3
    world.transport.script = None
    world.step(10)
    prove(world)
    running = world.receive()
    assert world.jobs.status(running.job.id).waiting_for is None


def test_probes_back_off_to_ten_seconds_and_never_stack(world: Bench) -> None:
    world.start()
    times = []
    began = world.clock.monotonic()
    for _ in range(6000):
        if probes(world) and not probes(world)[-1].future.done():
            probes(world)[-1].fail(NotSent("refused"))
        before = len(probes(world))
        world.step(0.01)
        if len(probes(world)) > before:
            times.append(world.clock.monotonic() - began)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[0] == pytest.approx(0.1, abs=0.03)
    assert max(pauses) == pytest.approx(10, abs=0.05)
    assert len(times) < 16


def test_a_job_that_was_never_delivered_and_expires_ends_with_the_last_reason(world: Bench) -> None:
    world.transport.script = lambda sent: sent.fail(NotSent("connection refused: 127.0.0.1:9"))
    with served():
        job_id = world.start(as_current_user=True, expires=600)
        another = world.start(as_current_user=True)
    for _ in range(610):
        world.step(1)
    job = world.job(job_id)
    assert job.status is Status.FAILED
    assert job.status_text == (
        "expired: not started in time; the last attempt: FakeTransport: connection refused: 127.0.0.1:9"
    )
    assert world.job(another).status is Status.STARTED


@pytest.mark.parametrize("user", [False, True], ids=["anonymous", "as the current user"])
def test_a_job_that_was_sent_before_waits_for_the_address_to_prove_itself_again_without_a_limit(
    world: Bench, *, user: bool
) -> None:
    with served():
        job_id = world.start(as_current_user=user)
    world.step()
    prove(world)
    world.step(16)
    assert world.job(job_id).deliver_by is not None
    works(world)[0].fail(ConnectionLost("the server was stopped"))
    world.step()
    world.transport.script = lambda sent: sent.fail(NotSent("connection refused: 127.0.0.1:9"))
    for _ in range(1200):
        world.step(1)
    state = world.jobs.status(job_id)
    assert (state.status, state.waiting_for, len(works(world))) == (Status.STARTED, "connection", 1)
    world.transport.script = None
    world.step(10)
    prove(world)
    assert world.receive().job.id == job_id


def test_an_answer_by_another_site_ends_a_job_only_after_a_second_proof(world: Bench) -> None:
    job_id = world.start()
    world.step()
    prove(world)
    works(world)[0].answer(404)
    world.step()
    assert world.job(job_id).status is Status.STARTED
    world.step(0.2)
    assert (len(probes(world)), len(works(world))) == (2, 1)
    prove(world)
    works(world)[1].answer(404)
    world.step()
    assert world.job(job_id).status is Status.FAILED
    assert "404 Not Found: answered, but the middleware did not claim" in (world.job(job_id).status_text or "")


def test_another_process_with_a_proof_takes_the_anonymous_jobs(world: Bench) -> None:
    other = bench(clock=world.clock, store=world.store.store)
    ids = {world.start() for _ in range(5)}
    world.transport.script = lambda sent: sent.fail(NotSent("refused"))
    for _ in range(40):
        world.step(1)
        other.step(0)
    sent = {one.delivery.job_id for one in other.transport.sent}
    assert sent <= ids
    assert len(sent) >= 4


# --- keys -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asking", "answering", "is_proven"),
    [
        ((KEY, OTHER_KEY), (OTHER_KEY, KEY), True),
        ((OTHER_KEY, KEY), (KEY, OTHER_KEY), True),
        ((KEY,), (OTHER_KEY, KEY), False),
    ],
    ids=["rotated", "not rotated yet", "an answer by a key that the asker does not have"],
)
def test_any_key_of_the_ring_proves_the_application(
    asking: tuple[str, ...], answering: tuple[str, ...], is_proven: bool
) -> None:
    world = bench(transport=FakeTransport(in_process=False), signer=MessageSigner(asking[0], fallbacks=asking[1:]))
    other = bench(signer=MessageSigner(answering[0], fallbacks=answering[1:]))
    world.start()
    world.step()
    answer = reply(other, probes(world)[0])
    probes(world)[0].answer(answer.status, answer.reason, answer.headers)
    world.step()
    assert bool(works(world)) == is_proven


def test_the_answer_to_another_probe_proves_nothing(world: Bench) -> None:
    world.start()
    world.step()
    first = reply(world, probes(world)[0])
    probes(world)[0].fail(NotSent("refused"))
    world.step()
    world.step(1)
    probes(world)[1].answer(first.status, first.reason, first.headers)
    world.step()
    assert works(world) == []


# --- learnt addresses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("port", "is_proven"), [(8000, True), (8001, False), (None, False)])
def test_at_a_learnt_address_the_answering_sockets_own_port_exposes_a_relay(
    world: Bench, port: int | None, is_proven: bool
) -> None:
    learning(world)
    show(world, 8000, tls=None)
    world.start()
    world.step()
    answer = reply(world, probes(world)[0], port)
    probes(world)[0].answer(answer.status, answer.reason, answer.headers)
    world.step()
    assert bool(works(world)) == is_proven


def test_a_worker_request_to_a_learnt_address_has_the_host_of_the_starting_request(world: Bench) -> None:
    learning(world)
    show(world, 8000, tls=None)
    with served(Here()):
        world.start(as_current_user=True)
    world.start()
    world.step()
    prove(world, port=8000)
    assert [sent.delivery.sign().header("host") for sent in works(world)] == ["shop.example", None]


def test_a_probe_of_a_learnt_address_has_the_host_of_the_waiting_job(world: Bench) -> None:
    learning(world)
    show(world, 8000, tls=None)
    with served():
        world.start()
    world.step()
    assert probes(world)[0].delivery.sign().header("host") == "shop.example"


@pytest.mark.parametrize("host", ["", "a b", "ä", "a\r\nb"])
def test_an_impossible_host_is_not_sent(world: Bench, host: str) -> None:
    learning(world)
    show(world, 8000, tls=None)
    with served(Here(caller=Caller("http", host, "192.0.2.7"))):
        world.start()
    world.step()
    assert probes(world)[0].delivery.sign().header("host") is None


def test_of_two_schemes_the_one_that_proves_itself_is_used(world: Bench) -> None:
    made = learning(world)
    show(world, 8000, tls=None)
    assert list(made) == ["http://127.0.0.1:8000", "https://127.0.0.1:8000"]
    world.start()
    world.step()
    probes(world)[0].fail(ConnectionLost("the response is not HTTP/1"))
    world.step()
    prove(world, port=8000)
    assert len(probes(world)) == 2
    assert len(works(world)) == 1
    assert world.monitor._deliveries._proof.destination() is world.engine.addresses.destinations[1]


def test_a_process_takes_a_waiting_job_as_soon_as_a_request_has_shown_its_address(world: Bench) -> None:
    starting = bench(clock=world.clock, store=world.store.store, max_running=1)
    starting.start()
    starting.start()  # there is no room for this one
    learning(world)
    world.step(3)
    show(world, 8000, tls=None)
    world.step()
    assert len(probes(world)) == 1


def test_when_the_server_moves_the_next_job_goes_to_the_new_port(world: Bench) -> None:
    made = learning(world)
    show(world, 8000, tls=None)
    world.start()
    world.step()
    prove(world, port=8000)
    show(world, 9000, tls=None)
    world.start()
    world.step()
    assert len(works(world)) == 1
    for sent in probes(world)[1:]:
        sent.fail(NotSent("connection refused"))  # the old port, which is probed first
    world.step()
    prove(world, port=9000)
    assert len(works(world)) == 2
    assert len(made) == 4


def test_a_server_with_many_addresses_keeps_the_one_that_has_proven_itself(world: Bench) -> None:
    made = learning(world)
    hosts = [f"127.0.0.{n}" for n in range(1, 5)]
    for host in hosts:
        show(world, 8000, host)
    world.start()
    world.step()
    prove(world, port=8000)
    chosen = world.monitor._deliveries._proof.destination()
    for _ in range(50):
        for host in hosts:
            show(world, 8000, host)
        world.start()
        world.step(0.1)
        assert world.monitor._deliveries._proof.destination() is chosen
    assert (len(made), len(probes(world)), len(works(world))) == (4, 1, 51)


def test_few_addresses_are_kept_and_the_oldest_transports_are_closed(world: Bench) -> None:
    made = learning(world)
    for port in range(1, 1001):
        show(world, port)
    assert len(world.engine.addresses.destinations) == 8
    assert sum(not transport.closed for transport in made.values()) == 8
    world.engine.addresses.close()
    assert all(transport.closed == 1 for transport in made.values())


def test_a_function_that_makes_no_transport_takes_no_page_down(world: Bench) -> None:
    def make(base_url: str) -> FakeTransport:
        if base_url.startswith("https:"):
            raise ValueError("plain HTTP only")
        return FakeTransport(in_process=False)

    world.engine.addresses = Addresses(make)
    show(world, 8000, tls=True)
    with pytest.raises(
        AddressUnknown, match=r"no transport could be made for https://127.0.0.1:8000 \(ValueError\): set"
    ):
        world.start()
    show(world, 8000, tls=None)
    assert [one.name for one in world.engine.addresses.destinations] == ["http://127.0.0.1:8000"]


def test_a_probe_without_an_answer_does_not_keep_another_address_from_proving_itself(world: Bench) -> None:
    learning(world)
    for port in (9000, 8000):
        show(world, port)
    world.start()
    world.step()
    world.step(9.9)
    assert len(probes(world)) == 1
    world.step(0.2)
    assert len(probes(world)) == 2
    prove(world, port=9000)
    assert len(works(world)) == 1
    assert probes(world)[0].future.cancelled()


def test_a_transport_that_raises_does_not_keep_another_address_from_proving_itself(world: Bench) -> None:
    made = learning(world)
    for port in (9000, 8000):
        show(world, port)
    made["http://127.0.0.1:8000"].broken = OSError("secret")
    world.start()
    for _ in range(12):
        world.step(1)
    assert len(probes(world)) == 1
    prove(world, port=9000)
    assert len(works(world)) == 1


def test_a_probe_that_waits_behind_a_long_job_is_not_repeated(world: Bench) -> None:
    world.start()
    for _ in range(55):
        world.step(10)
    assert len(probes(world)) == 1
    assert why(world) == ("connection", "no answer yet from FakeTransport")
    prove(world)
    assert len(works(world)) == 1


# --- mounts ---------------------------------------------------------------------------------------------------------


def test_a_probe_goes_below_the_mount_of_the_waiting_job_and_its_signature_covers_what_is_below(world: Bench) -> None:
    with served(Here(request=Request("GET", "/shop/page"), mount="/shop")):
        world.start("/shop/work")
    world.step()
    sent = probes(world)[0].delivery.sign()
    assert sent.path == "/shop/backjob/probe"
    with pytest.raises(Reply):
        world.engine.worker.open(evolve(sent, target=sent.target.removeprefix("/shop"), mount=""))


def test_a_job_below_a_mount_that_leads_elsewhere_keeps_no_other_job_waiting(world: Bench) -> None:
    def answer(sent: Sent) -> None:
        request = sent.delivery.sign()
        if request.path.startswith("/elsewhere"):
            sent.answer(404)
        elif sent.delivery.attempt == 0:
            with pytest.raises(Reply) as caught:
                world.engine.worker.open(request)
            sent.answer(200, "OK", caught.value.headers)

    world.transport.script = answer
    with served(Here(request=Request("GET", "/elsewhere/page", (("Cookie", COOKIE),)), mount="/elsewhere")):
        world.start("/elsewhere/work", as_current_user=True)
    other = world.start()
    for _ in range(20):
        world.step(0.2)
    assert [sent.delivery.job_id for sent in works(world) if sent.delivery.job_id == other] == [other]


# --- processes ------------------------------------------------------------------------------------------------------


def test_each_process_asks_for_its_own_proof(world: Bench) -> None:
    world.start()
    world.step()
    prove(world)
    engine = world.engine
    engine.monitors = PerProcess(lambda: ManualMonitor(engine.delivery_parts))  # as after a fork
    world.start()
    world.step()
    assert (len(probes(world)), len(works(world))) == (2, 1)
