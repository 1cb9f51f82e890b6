"""Links in the events of a job: each client gets those of its own rights, from one feed for all."""

from __future__ import annotations

import json

from backjob.model import Request
from backjob.status.endpoints import Endpoints
from backjob.status.exchange import Visit
from backjob.status.links import Right
from backjob.status.streaming.stream import Stream
from tests.unit.core import Bench, bench
from tests.unit.status.fake_jobs import RIGHTS


def stream(world: Bench, job_id: str, right: Right = "view", query: str = "") -> Stream:
    ref = world.engine.reference(job_id, right)
    path = f"/{ref}/events"
    request = Request("GET", f"/backjob{path}?{query}")
    visit = Visit(request, path, None, "/backjob", in_thread=False, origin="https://shop.example")
    response = Endpoints(world.engine, "/backjob").respond(visit)
    assert response.stream is not None
    return response.stream


def states(stream: Stream) -> list[tuple[str, dict[str, object]]]:
    """Return the events of states that the stream has now."""
    found = []
    while not stream.is_over and (chunk := stream.take()) is not None:
        fields = dict(line.split(": ", 1) for line in chunk.decode().splitlines() if ": " in line)
        if fields.get("event") in ("state", "end"):
            found.append((fields["event"], json.loads(fields["data"])))
    return found


def test_each_client_gets_the_links_of_its_rights() -> None:
    world = bench(streams=9)
    job_id = world.start(keep_request=True)
    clients: dict[Right, Stream] = {right: stream(world, job_id, right) for right in RIGHTS}
    world.engine.broadcast.step()
    view = f"/backjob/{world.engine.reference(job_id, 'view')}"
    for right, client in clients.items():
        [(name, state)] = states(client)
        cancel = f"/backjob/{world.engine.reference(job_id, 'cancel')}/cancel"
        assert name == "state"
        assert state.pop("links") == {
            "self": view,
            "events": f"/backjob/{world.engine.reference(job_id, right)}/events",
            "output": f"{view}/output",
            "file": None,
            "cancel": None if right == "view" else cancel,
            "run_again": None,
        }
        assert state == world.jobs.status(job_id).as_dict()


def test_the_links_at_the_end_are_those_of_an_ended_job() -> None:
    world = bench(streams=9)
    job_id = world.start(keep_request=True)
    client = stream(world, job_id, "manage", "absolute=1")
    world.jobs.cancel(job_id)
    world.engine.broadcast.step()
    [(name, state)] = states(client)
    assert name == "end"
    links = state["links"]
    assert isinstance(links, dict)
    assert links["cancel"] is None
    again = f"https://shop.example/backjob/{world.engine.reference(job_id, 'manage')}/run_again"
    assert links["run_again"] == again


def test_a_stream_without_links_sends_the_state_alone() -> None:
    world = bench(streams=9)
    job_id = world.start()
    client = world.engine.broadcast.open(job_id, 0, output=False, in_thread=False)
    assert client is not None
    world.engine.broadcast.step()
    [(_, state)] = states(client)
    assert "links" not in state
