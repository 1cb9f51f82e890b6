"""The language of the command line."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import pytest

from backjob import BackJob
from backjob.cli.bar import Progress, Style, draw
from backjob.cli.commands import list_jobs
from backjob.cli.console import job_details
from backjob.cli.parser import parser_of
from backjob.cli.speaking import language_for
from backjob.cli.table import job_table
from backjob.cli.watching import watch
from backjob.jobs import engine_of
from backjob.lifecycle import failed
from backjob.model import Status
from backjob.status.languages import LANGUAGES, language
from tests.unit.acting import Acting, quiet_jobs
from tests.unit.terminals import Terminal, cells


@pytest.fixture
def jobs() -> Iterator[BackJob]:
    with quiet_jobs() as jobs:
        yield jobs


class Ascii(Terminal):
    encoding = "ascii"


@pytest.mark.parametrize(
    ("variables", "tag"),
    [
        ({}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "de"),
        ({"LANG": "de_DE.UTF-8", "LC_MESSAGES": "fr_FR"}, "fr"),
        ({"LANG": "de_DE.UTF-8", "LC_MESSAGES": "", "LC_ALL": "C.UTF-8"}, "en"),
        ({"LANG": "sv_SE.UTF-8"}, "en"),
    ],
)
def test_a_terminal_has_the_language_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], tag: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert language_for(Terminal()).tag == tag
    assert language_for(io.StringIO()).tag == "en"  # a pipe or a file


def test_a_terminal_that_cannot_show_the_language_gets_english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "ja_JP.UTF-8")
    assert language_for(Ascii()).tag == "en"


def test_the_table_and_the_details_speak_the_language(jobs: BackJob) -> None:
    acting = Acting(jobs, title="Rechnungen", retries=3).claim().retry("boom")
    waiting = Acting(jobs, due=60)
    german = language("de")
    headings, line, again = job_table(jobs.find(), engine_of(jobs).clock.now(), None, german)
    assert headings.split() == ["ID", "STATUS", "%", "ALTER", "DAUER", "TITEL", "TEXT"]
    assert "Wartet auf den Start" in line
    assert line.endswith("wartet auf den vorgesehenen Zeitpunkt")
    assert "Neuer Versuch folgt" in again
    assert again.endswith("Versuch 2 von 4")
    assert "state     Neuer Versuch folgt" in job_details(jobs, acting.id, language=german)
    assert "Frühere Läufe:" in job_details(jobs, acting.id, language=german)
    assert "wartet auf den vorgesehenen" in job_details(jobs, waiting.id, language=german)


def test_watch_speaks_the_language_on_a_terminal(jobs: BackJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    acting = Acting(jobs).claim()
    acting.end(failed, "the process that ran it ended")
    terminal = Terminal()
    assert watch(jobs, acting.id, terminal) == 1
    assert "Fehlgeschlagen" in str(terminal.screen())
    assert "the process" not in str(terminal.screen())


def test_an_empty_list_says_so_in_the_language(jobs: BackJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list_jobs(parser_of("backjob", jobs).parse_args(["list"])) == 0
    assert terminal.getvalue() == "Es gibt noch keine Aufträge.\n"


@pytest.mark.parametrize("tag", LANGUAGES)
def test_bar_and_table_fit_in_every_language(jobs: BackJob, tag: str) -> None:
    Acting(jobs, title="Invoices 2026", queue="exports").claim().retry("boom")
    Acting(jobs, due=60)
    for columns in (40, 60, 80, 120):
        lines = list(job_table(jobs.find(), engine_of(jobs).clock.now(), columns, language(tag)))
        assert max(map(cells, lines)) <= columns
        style = Style("█", "░", "⠋", "✔✘■", ("", ""), colours=False, language=language(tag))
        line = draw(Progress(Status.STARTED, 43, "Invoices 2026", 65, attempt=2), style, columns)
        assert cells(line) <= columns
        assert "43 %" in line
