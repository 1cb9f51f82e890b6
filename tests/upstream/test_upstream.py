"""The command that compares a framework's own tests, tried with a suite of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.upstream.__main__ import compare, main

pytestmark = pytest.mark.slow

SUITE = """
    import inspect

    import flask
    import pytest


    def modules_below_a_view():
        app = flask.Flask("made-up")
        app.add_url_rule("/", view_func=lambda: [frame.frame.f_globals["__name__"] for frame in inspect.stack()])
        return app.test_client().get("/").json


    def test_a_page():
        assert "flask.app" in modules_below_a_view()


    def test_that_the_middleware_breaks():
        assert "backjob.wsgi" not in modules_below_a_view()


    @pytest.mark.xfail
    def test_that_never_passes():
        raise ValueError


    @pytest.mark.skip
    def test_that_is_skipped():
        pass
"""


def test_only_tests_whose_results_differ_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)  # a plugin's options would be unknown
    (tmp_path / "test_made_up.py").write_text("\n".join(line[4:] for line in SUITE.splitlines()))
    assert main(["flask", "--source", str(tmp_path), "test_made_up.py"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "without: 4 tests, 2 passed, 1 skipped, 1 xfailed",
        "   with: 4 tests, 1 failed, 1 passed, 1 skipped, 1 xfailed",
        "the middleware was put around 2 applications",
        "test_made_up.py::test_that_the_middleware_breaks: passed without the middleware, failed with it",
    ]


def test_a_test_that_is_missing_from_one_run_differs() -> None:
    assert compare({"a": "passed", "b": "failed"}, {"a": "passed", "b": "failed"}) == []
    assert compare({"a": "passed"}, {"b": "failed"}) == [
        "a: passed without the middleware, missing with it",
        "b: missing without the middleware, failed with it",
    ]
