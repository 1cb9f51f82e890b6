"""An action that calls ``sys.exit()``, or raises another such error, fails its job; the server goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from backjob import Status
from tests.scenarios.client import Gate
from tests.scenarios.servers import KINDS
from tests.scenarios.sites import Site, serving

EXITS: Final = ("SystemExit:3", "SystemExit:0", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "CancelledError")


def text_of(how: str) -> str:
    return how.replace(":", ": ")


@pytest.mark.every_server
def test_the_server_goes_on_with_other_jobs_and_pages_after_an_exit(site: Site, gate: Gate) -> None:
    pid = site.started("/work/none")["pid"]
    others = []
    if site.server.kind.workers > 2:
        other = site.start("/work/hold", {"gate": gate.port}, visitor={"Cookie": "user=ann"})
        others.append((other, gate.reached()))
    for how in EXITS:
        state = site.run("/work/leave", {"how": how})
        assert (state.status, state.progress) == (Status.FAILED, 30)
        if how == "CancelledError" and site.app.startswith("quart_app"):
            assert state.status_text == "the action ended without a response"  # Quart swallows it
        else:
            assert state.status_text == text_of(how)
        assert site.page("/ready").status == 200
    for other, held in others:
        held.release()
        assert site.end(other).status is Status.COMPLETED
    assert site.server.process.poll() is None
    if site.server.kind.name != "gunicorn-sync-2":
        assert site.started("/work/none")["pid"] == pid


@pytest.mark.slow
@pytest.mark.parametrize(
    "pair", [("waitress", "plain_app"), ("gunicorn-sync", "flask_app"), ("uvicorn-h11", "asgi_app")]
)
def test_processes_that_an_action_forks_print_to_the_servers_stdout(pair: tuple[str, str], tmp_path: Path) -> None:
    with serving(KINDS[pair[0]], f"{pair[1]}:app", tmp_path) as site:
        state = site.run("/work/fork")
        assert (state.status, state.result) == (Status.COMPLETED, {"squares": [0, 1, 4]})
        assert site.text(state.id) == "before\nafter\n"
        assert site.server.tail().count("in a child") == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["uvicorn-h11", "hypercorn"])
def test_an_event_loop_goes_on_after_an_exit_of_a_task_or_a_thread(kind: str, tmp_path: Path) -> None:
    with serving(KINDS[kind], "starlette_app:app", tmp_path) as site, Gate() as gate:
        other = site.start("/coroutine/hold", {"gate": gate.port})
        held = gate.reached()
        for path in ("/coroutine/leave", "/coroutine/leave-by-task", "/coroutine/leave-by-thread", "/within/leave"):
            for how in ("SystemExit:3", "KeyboardInterrupt"):
                state = site.run(path, {"how": how})
                assert (state.status, state.status_text) == (Status.FAILED, text_of(how)), path
        held.release()
        assert site.end(other).status is Status.COMPLETED
        assert site.server.process.poll() is None
