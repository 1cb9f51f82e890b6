"""Output past its limit on the page, and all output as a text file."""

from __future__ import annotations

from typing import Any

import pytest

from backjob.status.endpoints import StatusResponse
from tests.unit.status.fake_jobs import HTML, FakeJobs, fake_jobs, fetch

GAP = "The output exceeded the limit; a part is missing here."


@pytest.fixture
def jobs() -> FakeJobs:
    return fake_jobs()


def downloaded(jobs: FakeJobs, **options: Any) -> tuple[StatusResponse, bytes]:
    response = fetch(jobs, "/job1/output", owner="ann", query="download=1", **options)
    return response, b"" if response.download is None else b"".join(response.download)


def test_the_page_shows_the_beginning_and_the_end_of_output_that_exceeded_the_limit(jobs: FakeJobs) -> None:
    jobs.truncated = True
    jobs.tails["job1"] = "cut off\n<b>the end</b>\n"
    page = fetch(jobs, "/job1", owner="ann", headers=HTML).body
    fragment = fetch(jobs, "/job1/fragment", owner="ann", query="output=1").body
    for markup in (page.decode(), fragment.decode()):
        shown = markup.partition('tabindex="0">\n')[2].partition("</pre>")[0]
        note = f'<span part="note">{GAP}</span>'
        assert shown == f"first\nsecond ä\n{note}&lt;b&gt;the end&lt;/b&gt;\n"


@pytest.mark.slow
def test_the_whole_output_is_a_text_file(jobs: FakeJobs) -> None:
    lines = b"".join(b"\x1b[32mline\x1b[0m %d\n" % number for number in range(20_000))
    jobs.outputs["job1"] = lines + "10 %\r20 %\r\x1b[Kdone ä".encode()
    response, content = downloaded(jobs)
    assert response.status == 200
    assert content.decode() == "".join(f"line {number}\n" for number in range(20_000)) + "done ä"
    assert response.header("Content-Type") == "text/plain; charset=utf-8"
    assert response.header("Content-Disposition") == 'attachment; filename="output-job1.txt"'
    assert response.header("X-Content-Type-Options") == "nosniff"


def test_the_file_marks_the_gap_in_the_language_of_the_browser(jobs: FakeJobs) -> None:
    jobs.truncated = True
    jobs.tails["job1"] = "half a line\nthe end\n"
    assert downloaded(jobs)[1].decode() == f"first\nsecond ä\n\n[{GAP}]\nthe end\n"
    german = downloaded(jobs, headers=(("Accept-Language", "de"),))[1].decode()
    assert "[Die Ausgabe war zu lang; hier fehlt ein Teil.]" in german


def test_the_file_is_made_one_chunk_at_a_time(jobs: FakeJobs) -> None:
    jobs.outputs["job1"] = (b"x" * 99 + b"\n") * 10_000
    response = fetch(jobs, "/job1/output", owner="ann", query="download=1")
    assert response.download is not None
    before = jobs.reads
    response.download.read()
    assert jobs.reads == before + 1
    response.download.close()


def test_head_reads_no_output(jobs: FakeJobs) -> None:
    response, content = downloaded(jobs, method="HEAD")
    assert (response.status, content, jobs.reads) == (200, b"", 1)
    assert response.header("Content-Disposition") is not None


def test_a_visitor_who_may_not_see_the_job_gets_no_file(jobs: FakeJobs) -> None:
    assert fetch(jobs, "/job1/output", owner="bob", query="download=1").status == 404
