"""The route that sends a job's file, and what visitors see of unexpected errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backjob.errors import JobFailed
from backjob.files import MemoryFiles
from backjob.model import Headers, Request
from backjob.status.endpoints import Endpoints, StatusResponse, Visit
from backjob.worker.outcomes import Outcome
from tests.unit.core import Bench, bench

JSON: Headers = (("Accept", "application/json"),)


@pytest.fixture
def world() -> Bench:
    return bench(files=MemoryFiles())


def fetch(
    world: Bench,
    job_id: str,
    leaf: str = "",
    *,
    method: str = "GET",
    token: bool = True,
    headers: Headers = (),
    **who: Any,
) -> StatusResponse:
    ref = world.engine.status_url(job_id).rpartition("/")[2] if token else job_id
    path = f"/{ref}/{leaf}".rstrip("/")
    visit = Visit(
        Request(method, f"/backjob{path}", headers), path, who.get("owner"), "/backjob", who.get("staff", False)
    )
    return Endpoints(world.engine, "/backjob").respond(visit)


def with_file(world: Bench, name: str = "report.csv", **options: Any) -> str:
    running = world.run(**options)
    with running.active():
        world.jobs.finish(file=b"a,b\n", name=name)
    world.engine.worker.end(running, Outcome(200))
    return running.job.id


def body(response: StatusResponse) -> bytes:
    assert response.download is not None
    return b"".join(response.download)


def test_a_file_is_sent_as_an_attachment_that_no_browser_shows(world: Bench) -> None:
    response = fetch(world, with_file(world, "Übersicht.html"), "file")
    assert (response.status, body(response)) == (200, b"a,b\n")
    assert dict(response.headers) == {
        "Content-Type": "text/html",
        "Content-Length": "4",
        "Content-Disposition": "attachment; filename=\"_bersicht.html\"; filename*=UTF-8''%C3%9Cbersicht.html",
        "Cache-Control": "private, no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }


def test_head_has_the_same_fields_and_no_body(world: Bench) -> None:
    job_id = with_file(world)
    head, get = (fetch(world, job_id, "file", method=method) for method in ("HEAD", "GET"))
    assert (head.status, head.headers, head.body, head.download) == (200, get.headers, b"", None)
    body(get)


@pytest.mark.parametrize(
    ("who", "status"),
    [({"token": True}, 200), ({"owner": "ann"}, 200), ({"staff": True}, 200), ({"owner": "eve"}, 404), ({}, 404)],
)
def test_a_token_the_owner_and_staff_get_the_file(world: Bench, who: dict[str, Any], status: int) -> None:
    response = fetch(world, with_file(world, owner="ann"), "file", **{"token": False, **who})
    assert response.status == status
    if response.download is not None:
        response.download.close()


def test_without_a_file_or_its_content_there_is_nothing(world: Bench) -> None:
    running = world.run()
    assert fetch(world, running.job.id, "file").status == 404
    world.engine.worker.end(running, Outcome(200))
    assert fetch(world, running.job.id, "file").status == 404
    job_id = with_file(world)
    assert world.engine.files is not None
    world.engine.files.delete(job_id)
    assert fetch(world, job_id, "file").status == 404
    assert fetch(world, job_id, "file", method="POST").status == 405


# --- unexpected errors ------------------------------------------------------------------------------------------------------


def failed(world: Bench, outcome: Outcome, **options: Any) -> str:
    running = world.run(**options)
    world.engine.worker.end(running, outcome)
    return running.job.id


UNEXPECTED = Outcome(error=KeyError("secret"))


@pytest.mark.parametrize("leaf", ["", "fragment"])
@pytest.mark.parametrize("accept", ["application/json", "text/html"])
def test_a_visitor_sees_internal_error_and_the_jobs_id(world: Bench, leaf: str, accept: str) -> None:
    job_id = failed(world, UNEXPECTED, owner="ann")
    visitors: list[dict[str, Any]] = [{}, {"token": False, "owner": "ann"}]
    for who in visitors:
        shown = fetch(world, job_id, leaf, headers=(("Accept", accept),), **who).body.decode()
        assert "secret" not in shown
        assert f"internal error (job {job_id})" in shown


def test_staff_code_and_the_log_have_the_whole_text(world: Bench, caplog: pytest.LogCaptureFixture) -> None:
    job_id = failed(world, UNEXPECTED)
    visitors: list[dict[str, Any]] = [{"staff": True}, {"token": False, "staff": True}]
    for who in visitors:
        assert "secret" in fetch(world, job_id, headers=JSON, **who).body.decode()
    assert world.jobs.status(job_id).status_text == "KeyError: 'secret'"
    assert world.ended[-1].status_text == "KeyError: 'secret'"
    assert "KeyError: 'secret'" in caplog.text


def test_with_show_errors_visitors_see_it_too() -> None:
    world = bench(show_errors=True)
    assert "secret" in fetch(world, failed(world, UNEXPECTED), headers=JSON).body.decode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("302 Found → /admin/login/?next=/command/work/", "the job was redirected, perhaps to a login page"),
        ("399 → /a b: the middleware", "the job was redirected, perhaps to a login page"),
        ("302 Found → /login: the login has expired; see as_owner", "the login has expired; see as_owner"),
        ("302 Found", "302 Found"),
        ("300 rows failed", "300 rows failed"),
    ],
)
def test_only_staff_see_where_a_job_was_redirected(world: Bench, text: str, shown: str) -> None:
    job_id = failed(world, Outcome(error=JobFailed(text)), owner="ann")
    read = [json.loads(fetch(world, job_id, headers=JSON, staff=staff).body)["status_text"] for staff in (False, True)]
    assert read == [shown, text]
    assert world.jobs.text_of(world.jobs.status(job_id)) == shown


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (Outcome(404, message="No such customer"), "404 Not Found: No such customer"),
        (Outcome(500), "500 Internal Server Error"),
    ],
)
def test_the_words_of_the_site_itself_are_always_shown(world: Bench, outcome: Outcome, text: str) -> None:
    assert (
        text.encode("unicode-escape").replace(b"\\u2192", b"\\u2192")
        in fetch(world, failed(world, outcome), headers=JSON).body
    )


def test_the_words_of_fail_are_always_shown(world: Bench) -> None:
    running = world.run()
    with running.active(), pytest.raises(JobFailed) as raised:
        world.jobs.fail("The file has no rows")
    world.engine.worker.end(running, Outcome(error=raised.value))
    assert b"The file has no rows" in fetch(world, running.job.id, headers=JSON).body


def test_the_body_of_a_5xx_response_is_for_staff(world: Bench) -> None:
    job_id = failed(world, Outcome(500, message="Traceback: secret"))
    assert b"secret" not in fetch(world, job_id, headers=JSON).body
    assert b"secret" in fetch(world, job_id, headers=JSON, staff=True).body


def test_the_reason_of_a_retry_is_hidden_and_its_attempt_is_not(world: Bench) -> None:
    job_id = failed(world, UNEXPECTED, retries=2)
    shown = fetch(world, job_id, headers=JSON).body.decode()
    assert "secret" not in shown
    assert f"internal error (job {job_id}); attempt 2 of 3" in shown
    assert '"reason": "internal error"' in shown
    assert "secret" in fetch(world, job_id, headers=JSON, staff=True).body.decode()


def test_event_streams_hide_it_except_for_staff() -> None:
    world = bench(streams=5)
    job_id = failed(world, UNEXPECTED)
    found: list[bytes] = []
    for staff in (False, True):
        response = fetch(world, job_id, "events", staff=staff)
        assert response.stream is not None
        world.engine.broadcast.step()
        sent = b""
        while (chunk := response.stream.take()) is not None and b"event: end" not in sent:
            sent += chunk
        response.stream.close()
        found.append(sent)
    assert [b"secret" in sent for sent in found] == [False, True]
    assert b"internal error" in found[0]
