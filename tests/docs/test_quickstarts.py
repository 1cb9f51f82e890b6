"""The three quickstarts work as printed, on a server with two processes: a double click, a bar, a file, the list."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

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
