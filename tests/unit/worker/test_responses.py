"""What becomes of an action's response: over WSGI and ASGI, whole and streamed."""

from __future__ import annotations

import gzip
import json
import logging
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias, cast

import pytest
from attrs import frozen

from backjob import asgi, wsgi
from backjob.files import MemoryFiles
from backjob.jobs.states import file_of
from backjob.model import Job, Status
from tests.unit import test_asgi, test_wsgi
from tests.unit.core import Bench, bench

Fields: TypeAlias = "tuple[tuple[str, str], ...]"


@pytest.fixture
def world() -> Bench:
    return bench(files=MemoryFiles())


@frozen
class Answer:
    """A response to send: ``chunks`` are its body. Without ``streamed`` they are one, with its length in the header."""

    content_type: str
    chunks: Iterable[bytes]
    streamed: bool = False
    status: int = 200
    more: Fields = ()
    has_length: bool = True

    def fields(self) -> list[tuple[str, str]]:
        fields = [("Content-Type", self.content_type), *self.more] if self.content_type else [*self.more]
        if not self.streamed and self.has_length:
            fields.append(("Content-Length", str(sum(map(len, self.chunks)))))
        return fields


def over_wsgi(world: Bench, answer: Answer, before: Callable[[], object], **_: Any) -> Job:
    def app(_environ: Any, start_response: Any) -> Any:
        before()
        start_response(f"{answer.status} Some Phrase", answer.fields())
        return iter(answer.chunks) if answer.streamed else list(answer.chunks)

    return cast("Job", test_wsgi.run(world, app)[1])


def over_asgi(world: Bench, answer: Answer, before: Callable[[], object], **_: Any) -> Job:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        before()
        fields = [(name.lower().encode(), value.encode("latin-1")) for name, value in answer.fields()]
        await send({"type": "http.response.start", "status": answer.status, "headers": fields})
        if answer.streamed:
            for chunk in answer.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "http.response.body", "body": b"".join(answer.chunks)})

    return cast("Job", test_asgi.run(world, app)[1])


@pytest.fixture(params=[over_wsgi, over_asgi])
def run(request: pytest.FixtureRequest, world: Bench) -> Callable[..., Job]:
    def running(
        content_type: str,
        *chunks: bytes,
        streamed: bool = False,
        status: int = 200,
        more: Fields = (),
        body: Iterable[bytes] | None = None,
        before: Callable[[], object] = lambda: None,
        has_length: bool = True,
    ) -> Job:
        answer = Answer(content_type, chunks if body is None else body, streamed, status, more, has_length)
        job: Job = request.param(world, answer, before)
        return job

    return running


Run: TypeAlias = Callable[..., Job]


def output(world: Bench, job: Job) -> str:
    return world.jobs.output(job.id).text


def content(world: Bench, job: Job) -> bytes:
    file = world.engine.open_file(job.id)
    assert file is not None
    with file:
        return file.read()


# --- text -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_plain_text_is_output(world: Bench, run: Run, streamed: bool) -> None:
    job = run("text/plain; charset=utf-8", "Zäh".encode()[:2], "Zäh".encode()[2:] + b"ler\n", streamed=streamed)
    assert job.status is Status.COMPLETED
    assert output(world, job) == "Zähler\n"


def test_text_follows_what_was_printed(world: Bench, run: Run) -> None:
    job = run("text/plain", b"returned", before=lambda: print("printed"))
    assert output(world, job) == "printed\nreturned"


def test_text_is_decoded_in_its_charset(world: Bench, run: Run) -> None:
    assert output(world, run("text/plain; charset=iso-8859-1", b"Gr\xfc\xdfe")) == "Grüße"


@pytest.mark.parametrize("charset", ["idna", "punycode", "utf-16", "utf-32"])
@pytest.mark.parametrize("status", [200, 404])
def test_a_charset_that_can_not_decode_the_text_is_no_error_of_the_action(
    world: Bench, run: Run, charset: str, status: int
) -> None:
    body = "Größe 1, more..than".encode()
    job = run(f"text/plain; charset={charset}", body, status=status)
    assert job.status is (Status.COMPLETED if status == 200 else Status.FAILED)
    text = output(world, job) if status == 200 else job.status_text
    assert text is not None
    assert "Größe 1, more..than" in text


def test_a_character_that_is_cut_off_at_the_end_is_marked(world: Bench, run: Run) -> None:
    assert output(world, run("text/plain", b"ab\xc3", streamed=True)) == "ab\ufffd"


@pytest.mark.parametrize("has_length", [True, False])
def test_html_without_markup_is_output(world: Bench, run: Run, has_length: bool) -> None:
    job = run("text/html; charset=utf-8", b"Exported 50 rows, 3 < 5 & 7 <8", has_length=has_length)
    assert output(world, job) == "Exported 50 rows, 3 < 5 & 7 <8"
    assert world.jobs.status(job.id).status_text == "Exported 50 rows, 3 < 5 & 7 <8"


@pytest.mark.parametrize("body", [b"<p>a page", b"words</p>", b"<!doctype html>", b"<?xml ?>", b"x" * 2_000_000])
def test_a_page_is_dropped(world: Bench, run: Run, body: bytes) -> None:
    job = run("text/html", body)
    assert (job.status, output(world, job), job.result, job.file) == (Status.COMPLETED, "", None, None)


def test_markup_between_two_chunks_is_a_page_too(world: Bench) -> None:
    def app(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", "9")])
        return [b"words <", b"p>"]

    assert output(world, test_wsgi.run(world, app)[1]) == ""


def test_a_page_in_several_parts_is_not_streamed(world: Bench) -> None:
    def app(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/html")])
        return [b"<h1>Head", b"<p>Body"]

    assert output(world, test_wsgi.run(world, app)[1]) == ""


def test_streamed_html_is_output_as_it_comes(world: Bench, run: Run) -> None:
    assert output(world, run("text/html", b"<p>1</p>", b"<p>2</p>", streamed=True)) == "<p>1</p><p>2</p>"


# --- JSON -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", ["application/json", "application/vnd.api+json; charset=utf-8"])
@pytest.mark.parametrize("streamed", [False, True])
def test_json_is_the_result(run: Run, content_type: str, streamed: bool) -> None:
    job = run(content_type, b'{"rows"', b": 50}", streamed=streamed)
    assert (job.status, job.result, job.output_size) == (Status.COMPLETED, {"rows": 50}, 0)


@pytest.mark.parametrize("body", [b"null", b"", b" \n"])
def test_null_and_no_body_are_no_result(run: Run, caplog: pytest.LogCaptureFixture, body: bytes) -> None:
    job = run("application/json", body)
    assert (job.status, job.result) == (Status.COMPLETED, None)
    assert not caplog.records


def test_a_result_of_finish_counts_more_than_the_response(world: Bench, run: Run) -> None:
    job = run("application/json", b'{"rows": 50}', before=lambda: world.jobs.finish("Done", {"kept": 1}))
    assert (job.status_text, job.result) == ("Done", {"kept": 1})


def test_finish_with_a_text_only_leaves_the_result_to_the_response(world: Bench, run: Run) -> None:
    job = run("application/json", b'{"rows": 50}', before=lambda: world.jobs.finish("Done"))
    assert (job.status_text, job.result) == ("Done", {"rows": 50})


@pytest.mark.parametrize(
    "body", [b"{", b"{'a': 1}", b"NaN", b'{"a": Infinity}', b"\xff\xfe", b"[" * 50_000, b"[" * 210 + b"]" * 210]
)
def test_broken_json_is_dropped_with_one_warning(run: Run, caplog: pytest.LogCaptureFixture, body: bytes) -> None:
    job = run("application/json", body)
    assert (job.status, job.result) == (Status.COMPLETED, None)
    assert [(record.levelname, "not kept as its result" in record.getMessage()) for record in caplog.records] == [
        ("WARNING", True)
    ]


def test_json_past_the_limit_is_dropped_with_one_warning(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    body = json.dumps("x" * ((1 << 16) - 2)).encode()
    assert run("application/json", body).result == "x" * ((1 << 16) - 2)
    assert not caplog.records
    job = run("application/json", body + b" ")
    assert (job.status, job.result) == (Status.COMPLETED, None)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "MAX_RESULT" in caplog.text


def test_the_limit_of_a_result_is_an_argument() -> None:
    world = bench(max_result=5)
    assert over_wsgi(world, Answer("application/json", [b"12345"]), lambda: None).result == 12345
    assert over_wsgi(world, Answer("application/json", [b"123456"]), lambda: None).result is None


# --- files ----------------------------------------------------------------------------------------------------------


def test_an_attachment_is_the_jobs_file(world: Bench, run: Run) -> None:
    named: Fields = (("Content-Disposition", 'attachment; filename="Bericht 1.csv"'),)
    job = run("text/csv; charset=utf-8", b"a,b\n", b"1,2\n", streamed=True, more=named)
    assert (job.status, job.output_size, job.result) == (Status.COMPLETED, 0, None)
    assert file_of(job) == {"name": "Bericht 1.csv", "type": "text/csv; charset=utf-8", "size": 8}
    assert world.jobs.status(job.id).file == file_of(job)
    assert content(world, job) == b"a,b\n1,2\n"


@pytest.mark.parametrize(
    ("content_type", "name"),
    [
        ("text/csv", "work.csv"),
        ("application/pdf", "work.pdf"),
        ("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "work.xlsx"),
        ("application/octet-stream", "work.bin"),
    ],
)
def test_another_type_is_the_jobs_file_named_after_its_path(
    world: Bench, run: Run, content_type: str, name: str
) -> None:
    job = run(content_type, b"\0\xff")
    assert file_of(job) == {"name": name, "type": content_type, "size": 2}
    assert content(world, job) == b"\0\xff"


@pytest.mark.parametrize("content_type", ["text/plain", "text/html", "application/json"])
def test_an_attachment_of_any_type_is_a_file(world: Bench, run: Run, content_type: str) -> None:
    job = run(content_type, b'{"a": 1}', more=(("Content-Disposition", "attachment; filename=data.txt"),))
    assert (job.result, job.output_size) == (None, 0)
    assert content(world, job) == b'{"a": 1}'


def test_an_empty_attachment_is_an_empty_file_but_no_body_is_none(world: Bench, run: Run) -> None:
    job = run("text/csv", more=(("Content-Disposition", "attachment; filename=a.csv"),))
    assert content(world, job) == b""
    assert run("text/csv").file is None
    assert run("", b"bytes without a type").file is None
    assert run("text/csv", status=204, more=(("Content-Disposition", "attachment"),)).file is None


def test_the_response_to_head_is_no_file(world: Bench, run: Run) -> None:
    world.start(method="HEAD")
    job = run("text/csv", more=(("Content-Disposition", "attachment; filename=a.csv"),))
    assert (job.status, job.method, job.file) == (Status.COMPLETED, "HEAD", None)


def test_a_file_left_to_the_web_server_fails_the_job_and_says_so(run: Run) -> None:
    fields: Fields = (("Content-Disposition", "attachment; filename=a.csv"), ("X-Accel-Redirect", "/protected/a.csv"))
    job = run("text/csv", more=fields)
    assert job.status is Status.FAILED
    assert "x-accel-redirect" in (job.status_text or "")


def test_a_file_past_the_limit_fails_the_job(run: Run, world: Bench) -> None:
    world = bench(files=MemoryFiles(), max_file=5)
    exact = over_wsgi(world, Answer("text/csv", [b"12", b"345"], streamed=True), lambda: None)
    assert content(world, exact) == b"12345"
    job = over_asgi(world, Answer("text/csv", [b"12", b"3456"], streamed=True), lambda: None)
    assert (job.status, job.file) == (Status.FAILED, None)
    assert "MAX_FILE" in (job.status_text or "")


def test_a_large_file_is_never_whole_in_memory(run: Run, tmp_path: Any) -> None:
    world = bench(files=str(tmp_path / "files"))
    chunk, count = b"x" * (1 << 18), 200  # 50 MiB

    def chunks() -> Iterator[bytes]:
        for _ in range(count):
            yield chunk

    tracemalloc.start()
    try:
        job = over_wsgi(world, Answer("application/zip", chunks(), streamed=True), lambda: None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (file_of(job) or {})["size"] == count * len(chunk)
    assert peak < 8 * (1 << 20)


def test_finish_counts_more_than_a_file_in_the_response(world: Bench, run: Run) -> None:
    job = run("text/csv", b"response", before=lambda: world.jobs.finish(file=b"finish", name="kept.txt"))
    assert file_of(job) == {"name": "kept.txt", "type": "text/plain", "size": 6}
    assert content(world, job) == b"finish"


def test_without_a_place_for_files_an_attachment_fails_the_job_and_another_type_warns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("backjob.jobs.adapting.files_beside", lambda _store: None)
    world = bench()
    attachment: Fields = (("Content-Disposition", "attachment; filename=a.csv"),)
    job = over_wsgi(world, Answer("text/csv", [b"a"], more=attachment), lambda: None)
    assert job.status is Status.FAILED
    assert "set FILES" in (job.status_text or "")
    caplog.clear()
    job = over_wsgi(world, Answer("text/csv", [b"a"]), lambda: None)
    assert (job.status, job.file) == (Status.COMPLETED, None)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# --- encodings and failures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("encoding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_body_that_a_middleware_has_compressed_is_decoded(
    world: Bench, run: Run, encoding: str, encode: Callable[[bytes], bytes]
) -> None:
    encoded: Fields = (("Content-Encoding", encoding),)
    assert run("application/json", encode(b'{"rows": 50}'), more=encoded).result == {"rows": 50}
    assert output(world, run("text/plain", encode("Grüße".encode()), more=encoded)) == "Grüße"
    whole = encode(b"a,b\n" * 100_000)
    job = run("text/csv", whole[:100], whole[100:], streamed=True, more=encoded)
    assert content(world, job) == b"a,b\n" * 100_000
    assert run("text/plain", encode(b"wrong id"), status=404, more=encoded).status_text == "404 Not Found: wrong id"


def test_all_members_of_a_gzip_body_are_decoded(world: Bench, run: Run) -> None:
    first, second = gzip.compress(b"a,b\n" * 50_000), gzip.compress(b"c,d\n" * 50_000)
    for chunks in ([first + second + b"\0" * 99], [first, second], [first + second[:1], second[1:], b"\0"]):
        job = run("text/csv", *chunks, streamed=True, more=(("Content-Encoding", "gzip"),))
        assert content(world, job) == b"a,b\n" * 50_000 + b"c,d\n" * 50_000
    cut = run("text/csv", first + second[:-10], more=(("Content-Encoding", "gzip"),))
    assert cut.status is Status.FAILED


def test_an_encoding_that_is_unknown_or_broken_keeps_nothing(
    world: Bench, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    job = run("application/json", b"\x8b\x01", more=(("Content-Encoding", "br"),))
    assert (job.status, job.result) == (Status.COMPLETED, None)
    assert "Content-Encoding 'br'" in caplog.text
    assert run("application/json", b"not gzip", more=(("Content-Encoding", "gzip"),)).result is None
    cut = gzip.compress(b"a,b\n" * 1000)[:-10]
    assert run("text/csv", cut, more=(("Content-Encoding", "gzip"),)).status is Status.FAILED


def breaking() -> Iterator[bytes]:
    yield b'{"rows": 50}'
    raise KeyError("row 51")


@pytest.mark.parametrize("content_type", ["application/json", "text/csv", "text/html"])
def test_a_stream_that_breaks_keeps_nothing_but_its_error(world: Bench, content_type: str) -> None:
    def app(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", content_type)])
        return breaking()

    world.start()
    world.step()
    with pytest.raises(KeyError):
        test_wsgi.Server().serve(wsgi.BackJobMiddleware(app, world.jobs), test_wsgi.arrival(world))
    job = world.job(world.transport.sent[-1].delivery.job_id)
    assert (job.status, job.status_text, job.error) == (Status.FAILED, "KeyError: 'row 51'", "unexpected")
    assert (job.result, job.file) == (None, None)


def test_an_async_stream_that_breaks_keeps_nothing_but_its_error(world: Bench) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/csv")]})
        await send({"type": "http.response.body", "body": b"a,b\n", "more_body": True})
        raise KeyError("row 51")

    world.start()
    world.step()
    with pytest.raises(KeyError):
        test_asgi.Server().serve(asgi.BackJobMiddleware(app, world.jobs), test_asgi.arrival(world)[0])
    job = world.job(world.transport.sent[-1].delivery.job_id)
    assert (job.status, job.file) == (Status.FAILED, None)


def test_the_monitor_gets_no_body_whatever_the_action_returns(world: Bench) -> None:
    def app(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/csv"), ("Set-Cookie", "a=b"), ("Content-Length", "5")])
        return [b"large"]

    server, _ = test_wsgi.run(world, app)  # asserts that the body is empty
    assert "Set-Cookie" not in server.headers
    assert server.headers["Content-Length"] == "0"


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "sent", "text", "error"),
    [
        (404, ("text/plain", b"No such customer"), "404 Not Found: No such customer", None),
        (403, ("application/json", b'{"detail": "Too young"}'), "403 Forbidden: Too young", None),
        (400, ("text/html", b"<h1>Bad Request</h1><p>Name it"), "400 Bad Request: Name it", None),
        (404, ("text/html", b"<h1>Not Found</h1>"), "404 Not Found", None),
        (404, ("", b"bytes"), "404 Not Found", None),
        (500, ("text/plain", b"Traceback: secret"), "500 Internal Server Error: Traceback: secret", "unexpected"),
        (503, ("text/plain", b""), "503 Service Unavailable", None),
        (500, ("text/html", b"<h1>Server Error (500)</h1>"), "500 Internal Server Error", None),
    ],
)
def test_the_message_of_an_error_response_stands_beside_its_status_line(
    run: Run, status: int, sent: tuple[str, bytes], text: str, error: str | None
) -> None:
    job = run(sent[0], sent[1], status=status)
    assert (job.status, job.status_text, job.error) == (Status.FAILED, text, error)


def test_an_endless_error_body_costs_little_memory(run: Run) -> None:
    job = run("text/plain", body=[b"x" * 50_000] * 40, streamed=True, status=400)
    assert job.status_text == "400 Bad Request: " + "x" * 2000 + " …"


def test_the_reason_of_a_retry_remembers_that_it_was_unexpected(world: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    world.start(retries=1)
    answer = Answer("text/plain", [b"secret"], status=500)
    job = over_wsgi(world, answer, lambda: None)
    assert (job.status, job.error) == (Status.STARTED, None)
    assert world.jobs.status(job.id).error == "unexpected"
    assert world.jobs.status(job.id).history[0]["error"] == "unexpected"
