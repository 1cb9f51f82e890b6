"""The three quickstarts work as printed, on a server with two processes: a double click, a bar, a file, the list."""

from __future__ import annotations

import re
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks
from tests.docs.quickstarts import ROWS, SITES, Visitor
from tests.docs.serving import fetch, until_ended

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("framework", SITES)
def test_a_double_click_starts_one_export_whose_file_can_be_downloaded(framework: str, tmp_path: Path) -> None:
    pytest.importorskip(framework, reason=f"the page is about {framework}")
    pytest.importorskip("uvicorn" if framework == "fastapi" else "gunicorn", reason="the page's server")
    with SITES[framework](tmp_path) as visitor:
        home = visitor.send("GET", "/")
        assert home.status == 200
        assert "<backjob-progress" not in home.text
        action = "/export/" if framework == "django" else "/export"
        assert f'action="{action}"' in home.text

        with ThreadPoolExecutor(2) as pool:  # a double click, answered by two processes
            answers = list(pool.map(lambda _: visitor.submit(action, home.text), range(2)))
        assert {answer.status for answer in answers} <= {302, 303}
        page = visitor.send("GET", "/").text
        source = re.search(r'<backjob-progress[^>]* src="([^"]+)"', page)
        assert source is not None
        for asset in re.findall(r'(?:src|href)="(/backjob/progress\.[a-z]+)"', page):
            assert visitor.send("GET", asset).status == 200

        state = until_ended(visitor.port, source[1])
        assert (state["status_name"], state["status_text"], state["title"]) == (
            "COMPLETED",
            "Your export is ready",
            "Orders",
        )
        output = fetch(visitor.port, "GET", f"{source[1]}/output", {"Accept": "text/plain"}).text
        assert output == "".join(f"order {number}\n" for number in range(ROWS))

        file = visitor.send("GET", f"{source[1]}/file")
        assert file.headers["Content-Disposition"].startswith("attachment")
        assert "orders.csv" in file.headers["Content-Disposition"]
        assert file.text.splitlines() == [f"{number},{10 * number}" for number in range(ROWS)]

        listed = visitor.send("GET", "/backjob/").text
        assert listed.count(">Orders<") == 1
        assert str(state["id"]) in listed
        assert "Orders" not in Visitor(visitor.port).send("GET", "/backjob/").text


def test_the_calls_that_the_page_shows_start_jobs_and_report(tmp_path: Path) -> None:
    pytest.importorskip("flask", reason="the page is about Flask")
    from flask import Flask

    from backjob.flask import BackJob
    from backjob.testing import immediate, recorded

    app = Flask("site")
    app.config.update(SECRET_KEY=secrets.token_hex(32), BACKJOB_STORE="memory:")
    jobs = BackJob(app)
    starting, merging, reporting = [
        block.code
        for block in blocks(ROOT / "docs" / "quickstart.md")
        if block.language == "python" and not block.title
    ]

    @app.post("/page")
    def page() -> str:
        exec(starting + merging, {"jobs": jobs})
        return ""

    @app.get("/work")
    def work() -> str:
        exec(reporting, {"jobs": jobs, "rows": range(3)})
        return ""

    with recorded(jobs) as started:
        assert app.test_client().post("/page", headers={"Cookie": "session=1"}).status_code == 200
    methods = [job.request.method for job in started]
    assert methods == ["POST", "PUT", "CHICKEN", "GET", "GET", "GET"]
    assert [job.scope for job in started] == ["", "", "", "reminders", "", ""]
    with app.app_context(), immediate(jobs, app):
        job_id = jobs.start("/work", as_current_user=False)
        state = jobs.status(job_id)
    assert (state.status.name, state.status_text) == ("COMPLETED", "Reading")
