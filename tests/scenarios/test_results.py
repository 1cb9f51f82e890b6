"""What an action returns is its job's result, output or file, on every server; and the file can be downloaded."""

from __future__ import annotations

import pytest

from backjob import Status
from tests.scenarios.sites import Site

ROWS = 2_000  # 200 kB


@pytest.mark.every_server
def test_json_is_the_result(site: Site) -> None:
    state = site.run("/work/result", {"kind": "json"})
    assert (state.status, state.result) == (Status.COMPLETED, {"rows": 50, "name": "ä"})


@pytest.mark.parametrize("kind", ["text", "html"])
def test_a_text_is_output_and_the_status_text(site: Site, kind: str) -> None:
    job_id = site.start("/work/result", {"kind": kind})
    assert site.end(job_id).status_text.endswith("Exported 50 rows")
    assert site.text(job_id) == ("printed\nExported 50 rows" if kind == "text" else "Exported 50 rows")


@pytest.mark.every_server
def test_a_streamed_attachment_is_a_file_for_those_who_may_see_the_job(site: Site) -> None:
    job_id = site.start("/work/result", {"kind": "file", "rows": ROWS})
    state = site.end(job_id)
    content = "".join(f"{number},{'ä' * 50}\r\n" for number in range(ROWS)).encode()
    assert state.status is Status.COMPLETED
    assert state.file is not None
    assert (state.file["name"], state.file["size"]) == ("Übersicht.csv", len(content))
    assert str(state.file["type"]).startswith("text/csv; charset=utf-8")  # Litestar repeats the charset
    url = f"{site.jobs.status_url(job_id)}/file"
    page = site.page(url)
    assert page.status == 200
    assert page.body == content
    assert page.headers["content-disposition"].endswith("filename*=UTF-8''%C3%9Cbersicht.csv")
    assert page.headers["content-type"] == state.file["type"]
    assert page.headers["content-length"] == str(len(content))
    assert page.headers["x-content-type-options"] == "nosniff"
    head = site.client.request("HEAD", url)
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(content)))
    assert site.page(f"/backjob/{job_id}/file").status == 404


def test_finish_keeps_a_file(site: Site) -> None:
    job_id = site.start("/work/result", {"kind": "finish"})
    state = site.end(job_id)
    assert (state.status_text, state.file) == ("Exported", {"name": "Übersicht.csv", "type": "text/csv", "size": 6})
    assert site.page(f"{site.jobs.status_url(job_id)}/file").body == "ä,b\r\n".encode()


def test_a_job_without_a_file_has_none_to_download(site: Site) -> None:
    job_id = site.start("/work/result", {"kind": "json"})
    assert site.end(job_id).file is None
    assert site.page(f"{site.jobs.status_url(job_id)}/file").status == 404
