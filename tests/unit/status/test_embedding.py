"""The element in an application's own page: with the state, for Jinja, Flask and others."""

from __future__ import annotations

import asyncio
import re
from contextlib import nullcontext
from pathlib import Path

import flask
import pytest
from jinja2 import Environment

from backjob import BackJob
from backjob.flask import BackJob as FlaskBackJob
from backjob.model import JobState, Request, Status
from backjob.status.embedding import ElementOptions, element, text_of
from tests.unit.acting import quiet_jobs
from tests.unit.core import Here, bench, served
from tests.unit.status.fake_jobs import FakeJobs, a_state


@pytest.fixture
def jobs() -> FakeJobs:
    return FakeJobs(states={"job1": a_state(status_text="<b>Chugging</b> along")})


def test_it_has_the_state_and_a_link_to_the_jobs_page(jobs: FakeJobs) -> None:
    markup = element(jobs, "job1", ElementOptions())
    source = jobs.status_url("job1")
    assert f'<backjob-progress src="{source}" data-status="in_progress">' in markup
    assert 'Running</span>: <span part="text">&lt;b&gt;Chugging&lt;/b&gt; along</span>' in markup
    assert f'<a part="show" href="{source}">Show the progress</a>' in markup
    assert "<form" not in markup


@pytest.mark.parametrize(
    ("limit", "here", "has_streams"),
    [
        (None, Here(in_thread=True), False),
        (None, Here(in_thread=False), True),
        (20, Here(in_thread=True), True),
        (0, Here(in_thread=False), False),
        (None, None, True),
        (0, None, False),
    ],
)
def test_it_listens_to_events_only_if_the_server_has_them(
    limit: int | None, here: Here | None, has_streams: bool
) -> None:
    world = bench(streams=limit)
    with nullcontext() if here is None else served(here):
        assert (" stream>" in world.jobs.element("job1", stream=True)) is has_streams


@pytest.mark.parametrize(
    "state",
    [
        a_state(status_text="row 4", attempt=2, retries=3, history=({"run": 1, "reason": "boom"},)),
        a_state(status=Status.FAILED, keeps_request=True),
        a_state(
            status=Status.COMPLETED, result={"href": "/x.csv"}, file={"name": "x.csv", "type": "text/csv", "size": 3}
        ),
    ],
    ids=["retried", "failed", "completed"],
)
def test_it_is_phrasing_content_so_that_it_ends_no_paragraph_and_no_form_around_it(
    jobs: FakeJobs, state: JobState
) -> None:
    jobs.states["job1"] = state
    markup = element(jobs, "job1", ElementOptions(cancel=True, output=True))
    assert {"backjob-progress", "span", "progress"} <= set(re.findall(r"<([a-z-]+)", markup))
    assert set(re.findall(r"<([a-z-]+)", markup)) <= {
        "a", "backjob-progress", "link", "progress", "script", "span",
    }  # fmt: skip


def test_without_the_script_the_jobs_page_leads_back_to_this_one(jobs: FakeJobs) -> None:
    jobs.page = "/orders?page=2&sort=a"
    view, cancel, back = jobs.status_url("job1"), jobs.status_url("job1", True), "?back=%2Forders%3Fpage%3D2%26sort%3Da"
    markup = element(jobs, "job1", ElementOptions(cancel=True))
    assert f'src="{cancel}"' in markup
    assert f'href="{cancel}{back}"' in markup
    del jobs.states["job1"]
    assert f'href="{view}{back}"' in element(jobs, "job1", ElementOptions())
    jobs.page = "//evil.example"
    assert "back=" not in element(jobs, "job1", ElementOptions())


@pytest.mark.parametrize(
    ("method", "target", "mount", "page"),
    [
        ("GET", "/orders?a=1", "", "/orders?a=1"),
        ("GET", "/shop/orders", "/shop", "/shop/orders"),
        ("GET", "/orders", "/shop", "/shop/orders"),
        ("GET", "/shopping", "/shop", "/shop/shopping"),
        ("POST", "/orders", "", None),
    ],
)
def test_the_page_being_served_is_the_one_that_the_browser_shows(
    method: str, target: str, mount: str, page: str | None
) -> None:
    world = bench()
    assert world.engine.page_path() is None
    with served(Here(Request(method, target), mount=mount)):
        assert world.engine.page_path() == page
        with world.run().active():
            assert world.engine.page_path() is None


def test_a_job_that_is_gone_or_a_store_that_is_down_leaves_the_link(jobs: FakeJobs) -> None:
    jobs.down = True
    for job_id in ("job1", "unknown"):
        markup = element(jobs, job_id, ElementOptions(lang="es"))
        assert markup.endswith(
            f'<a part="show" href="{jobs.status_url(job_id)}">Mostrar el progreso</a></backjob-progress>'
        )


def test_in_an_event_loop_it_does_not_wait_for_the_store(jobs: FakeJobs) -> None:
    async def render() -> str:
        return element(jobs, "job1", ElementOptions())

    assert "Show the progress" in asyncio.run(render())
    assert jobs.reads == 0


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (
            a_state(status=Status.FAILED, status_text="404 Not Found: No such customer"),
            "404 Nicht gefunden: No such customer",
        ),
        (
            a_state(status=Status.FAILED, status_text="KeyError: 'x'", error="unexpected"),
            "interner Fehler (Auftrag job1)",
        ),
        (a_state(status=Status.STARTED, status_text="", waiting_for="due"), "wartet auf den vorgesehenen Zeitpunkt"),
        (a_state(status=Status.CANCELLED, status_text="cancelled"), "Abgebrochen"),
        (a_state(status=Status.IN_PROGRESS, status_text="one\rtwo\x1b[31m red"), "two red"),
        (a_state(status=Status.COMPLETED, status_text="<b>Done</b>"), "<b>Done</b>"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_text_of_a_job_is_what_visitors_read_in_their_language(state: JobState, text: str) -> None:
    assert quiet_jobs().text_of(state, "de-AT") == text


def test_the_text_of_an_unexpected_error_is_shown_where_visitors_see_it(jobs: FakeJobs) -> None:
    jobs.show_errors = True
    assert (
        text_of(jobs, a_state(status=Status.FAILED, status_text="KeyError: 'x'", error="unexpected"), "")
        == "KeyError: 'x'"
    )


def test_jinja_inserts_it_as_markup(jobs: FakeJobs) -> None:
    template = Environment(autoescape=True).from_string("<main>{{ progress }}</main>")
    markup = element(jobs, "job1", ElementOptions(label='"quoted"'))
    assert template.render(progress=markup) == f"<main>{markup}</main>"
    assert ' label="&quot;quoted&quot;"' in markup
    assert ' aria-label="&quot;quoted&quot;"' in markup


def test_flask_templates_have_backjob_progress(tmp_path: Path) -> None:
    app = flask.Flask("shop", instance_path=str(tmp_path))
    app.secret_key = "0uT7bq-Zk3wVx9RmYs5LpN2aHd8JfGcE"
    jobs: BackJob = FlaskBackJob(app)
    try:
        with app.test_request_context():
            page = flask.render_template_string("{{ backjob_progress('unknown', output=True, lang='de') }}")
        assert '<script src="/backjob/progress.js" defer></script><backjob-progress src="/backjob/unknown.' in page
        assert " output lang=" in page
        assert "Fortschritt anzeigen" in page
    finally:
        jobs.close()
