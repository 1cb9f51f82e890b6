"""The page and the fragment for people: their language, the way back, pages in place of errors, links."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from backjob.errors import InvalidRequest
from backjob.jobs.options import Options
from backjob.model import Status
from backjob.settings import Settings
from backjob.signing import MessageSigner
from backjob.status.languages import LANGUAGES
from backjob.status.page import read_page_template
from backjob.stores.memory import MemoryStore
from backjob.transports.sockets import SocketTransport
from tests.unit.status.fake_jobs import HTML, NOON, FakeJobs, a_state, fetch
from tests.unit.status.test_endpoints import Page

KEY = "0uT7bq-Zk3wVx9RmYs5LpN2aHd8JfGcE"


@pytest.fixture
def jobs() -> FakeJobs:
    return FakeJobs(states={"job1": a_state()})


def test_the_page_the_fragment_and_errors_speak_the_language_that_the_browser_prefers(jobs: FakeJobs) -> None:
    headers = (*HTML, ("Accept-Language", "de-AT,en;q=0.5"))
    page = fetch(jobs, "/job1.cancel-job1", headers=headers).body.decode()
    assert '<html lang="de">' in page
    assert "Läuft</span>: <span" in page
    assert ">Abbrechen</button>" in page
    assert "Läuft</span>" in fetch(jobs, "/job1.view-job1/fragment", headers=headers).body.decode()
    assert "Diesen Auftrag gibt es nicht" in fetch(jobs, "/unknown", headers=headers).body.decode()
    jobs.down = True
    assert "kann gerade nicht angezeigt werden" in fetch(jobs, "/job1.view-job1", headers=headers).body.decode()


def test_errors_for_programs_are_english_in_every_language(jobs: FakeJobs) -> None:
    unknown = fetch(jobs, "/unknown", headers=(("Accept-Language", "de"),))
    assert unknown.body == b'{"error": "not found"}'


@pytest.mark.parametrize("tag", LANGUAGES)
def test_the_words_of_each_language_are_served(jobs: FakeJobs, tag: str) -> None:
    response = fetch(jobs, f"/words.{tag}.json")
    assert (response.status, response.header("Content-Type")) == (200, "application/json")
    assert response.header("Cache-Control") == "public, max-age=3600"
    assert json.loads(response.body)["words"]["cancel"]


def test_there_are_no_words_of_an_unknown_language(jobs: FakeJobs) -> None:
    assert fetch(jobs, "/words.xx.json").status == 404


@pytest.mark.parametrize("path", ["/reports", "/reports?year=2026&x=1", "/"])
def test_the_page_leads_back_to_a_page_of_the_site(jobs: FakeJobs, path: str) -> None:
    page = Page(fetch(jobs, "/job1.cancel-job1", headers=HTML, query=urlencode({"back": path})).body.decode())
    assert path in [link["href"] for link in page.all("a")]
    form = page.all("form")[0]["action"] or ""
    assert parse_qs(urlsplit(form).query) == {"back": [path]}
    cancelled = fetch(
        jobs, "/job1.cancel-job1/cancel", method="POST", headers=HTML, query=urlencode({"back": path})
    ).header("Location")
    assert parse_qs(urlsplit(cancelled or "").query) == {"back": [path]}


@pytest.mark.parametrize(
    "path",
    ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)", "reports", "", "/\t/evil.example",
     "/a\r\nLocation: b", "/a\\b", "\\/evil.example", " /a", "/" + "a" * 3000],
)  # fmt: skip
@pytest.mark.parametrize("job", ["/job1.cancel-job1", "/unknown"])
def test_the_page_leads_back_to_no_other_site(jobs: FakeJobs, job: str, path: str) -> None:
    response = fetch(jobs, job, headers=HTML, query=urlencode({"back": path}))
    assert "Back" not in response.body.decode().replace("Background", "")
    location = fetch(jobs, "/job1.cancel-job1/cancel", method="POST", headers=HTML, query=urlencode({"back": path}))
    assert "?" not in (location.header("Location") or "")


def test_the_page_and_the_fragment_link_to_the_file(jobs: FakeJobs) -> None:
    jobs.states["job1"] = a_state(status=Status.COMPLETED, end_time=NOON, file={"name": "<a>.csv", "size": 3})
    for leaf in ("", "/fragment"):
        body = fetch(jobs, f"/job1.view-job1{leaf}", headers=HTML).body.decode()
        assert 'href="/backjob/job1.view-job1/file" download>Download &lt;a&gt;.csv</a>' in body


def test_an_application_may_have_its_own_template_of_the_page(jobs: FakeJobs, tmp_path: Path) -> None:
    path = tmp_path / "job.html"
    path.write_text(
        '<html lang="{{lang}}"><h1>{{title}} ü</h1>{{#back}}<a href="{{back}}"></a>{{/back}}{{>progress}}<p>', "utf-8"
    )
    jobs.page_template = read_page_template(path)
    jobs.states["job1"] = a_state(title="<Invoices>", status_text="{{title}}")
    page = fetch(jobs, "/job1.view-job1", headers=HTML).body.decode()
    assert page.startswith('<html lang="en"><h1>&lt;Invoices&gt; ü</h1><backjob-progress src="/backjob/job1.view-job1"')
    assert '<span part="text">{{title}}</span>' in page
    assert page.endswith("</backjob-progress><p>")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<h1>{{title}}</h1>", "must contain {{>progress}}"),
        ("{{>progress}}{{>progress}}", "must contain {{>progress}}, the place of the job, once"),
        ("{{>progress}}{{titel}}", "unknown ['titel']; known: assets, back, back_word, lang, refresh, title"),
        ("{{>progress}}{{#owner}}x{{/owner}}", "unknown ['owner']"),
        (None, "can't be read"),
    ],
)
def test_a_template_that_can_not_work_is_refused_at_once(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "job.html"
    if text is not None:
        path.write_text(text, "utf-8")
    with pytest.raises(InvalidRequest, match=re.escape(reason)):
        Settings.of({"PAGE_TEMPLATE": str(path)})
    with pytest.raises(InvalidRequest, match="page_template"):
        Options(store=MemoryStore(), transport=SocketTransport, signer=MessageSigner(KEY), page_template=path)
