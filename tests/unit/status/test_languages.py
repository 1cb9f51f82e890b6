"""The words in ten languages: complete, with the same placeholders, and never used for an application's own texts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import pytest
from attrs import evolve

from backjob.lifecycle import UNEXPECTED, WAITING_TEXTS, End, Late, failed, past_end, verdict
from backjob.model import Job, JobState, JsonValue, Request, Status
from backjob.status.hiding import REDIRECTED, without_errors
from backjob.status.languages import ENGLISH, LANGUAGES, UNITS, accepted_language, language, language_file
from backjob.status.templates import asset
from backjob.status.words import NO_SIGN, WAITING, attempt_text, run_line, text_of_state, with_notes, word_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
OTHERS = LANGUAGES[1:]


def state(status: Status = Status.IN_PROGRESS, text: str = "", **values: Any) -> JobState:
    return JobState(
        id="job1", status=status, progress=40, status_text=text, start_time=NOON, updated_time=NOON,
        end_time=NOON if status.is_final else None, result=None, owner=None, scope="", **values,
    )  # fmt: skip


def places(text: str) -> list[str]:
    return sorted(re.findall(r"\{\w+\}", text))


def test_there_is_a_file_for_each_language_and_no_other() -> None:
    names = {entry.name for entry in files("backjob.status").joinpath("languages").iterdir()}
    assert {name for name in names if name.endswith(".json")} == {f"{tag}.json" for tag in LANGUAGES}


@pytest.mark.parametrize("tag", LANGUAGES)
def test_each_language_has_every_word_with_the_same_placeholders(tag: str) -> None:
    tables = json.loads(language_file(tag))
    assert list(tables) == ["words", "sentences", "reasons", "units"]
    for table in ("words", "sentences", "reasons"):
        english = json.loads(language_file("en"))[table]
        assert list(tables[table]) == list(english)
        assert {name: places(text) for name, text in tables[table].items()} == {
            name: places(text) for name, text in english.items()
        }
        assert [name for name, text in tables[table].items() if not text.strip() or text.strip() != text][:9] in (
            [],
            ["separator"],
        )
    assert list(tables["units"]) == [unit for unit, _ in UNITS]
    assert {tuple(places(form)) for forms in tables["units"].values() for form in forms} == {("{n}",)}


@pytest.mark.parametrize("tag", OTHERS)
def test_each_sentence_is_translated(tag: str) -> None:
    assert [text for text, translated in language(tag).sentences.items() if text == translated] == []


def test_the_sentences_are_those_that_backjob_writes() -> None:
    job = Job(
        id="job1", version=1, status=Status.IN_PROGRESS, created_time=NOON, start_time=NOON, updated_time=NOON, read_time=NOON,
        request=Request("GET", "/work"), error_timeout=3600,
    )  # fmt: skip
    written = [
        *WAITING.values(),
        NO_SIGN,
        REDIRECTED,
        attempt_text(2, 3),
        *(past_end(job, limit).text or "" for limit in Late),
    ]
    for text in written:
        assert ENGLISH.sentence(text) == text
        assert all(language(tag).sentence(text) != text for tag in OTHERS), text


@pytest.mark.parametrize("tag", LANGUAGES)
def test_durations_and_percentages_are_those_of_the_browsers(tag: str) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    script = """
        const [tag, counts] = [process.argv[1], [1, 2, 3, 5, 12, 21, 22]], found = {};
        for (const unit of ["day", "hour", "minute", "second"])
            found[unit] = counts.map((count) =>
                new Intl.NumberFormat(tag, { style: "unit", unit, unitDisplay: "short" }).format(count));
        found.percent = new Intl.NumberFormat(tag, { style: "percent" }).format(0.42);
        console.log(JSON.stringify(found));
    """
    done = subprocess.run([node, "-e", script, tag], check=True, capture_output=True, text=True, timeout=30)
    browsers = json.loads(done.stdout)
    found = language(tag)
    for unit, size in UNITS:
        counts = [count for count in (1, 2, 3, 5, 12, 21, 22) if unit == "day" or count * size < dict(UNITS)["day"]]
        # The browser's own spaces are kept; a count that has a larger unit is not shown in this one.
        ours = [found.units[unit][count != 1].replace("{n}", str(count)) for count in counts]
        assert ours == browsers[unit][: len(ours)]
    assert found.say("percent", number=42) == browsers["percent"]


@pytest.mark.parametrize(
    ("field", "tag"),
    [
        (None, "en"),
        ("", "en"),
        ("de", "de"),
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("DE-at", "de"),
        ("sv,fr;q=0.5", "fr"),
        ("en;q=0.2, ja;q=0.9", "ja"),
        ("it, es", "it"),
        ("de;q=0, pl;q=0.1", "pl"),
        ("sv;q=0.9, *;q=0.1", "en"),
        ("zh-Hans-CN", "zh"),
        ("de;q=nonsense, nl;q=0.3", "nl"),
        ("x" * 10_000 + ";;;,,q=1", "en"),
    ],
)
def test_the_language_is_the_one_that_the_browser_prefers(field: str | None, tag: str) -> None:
    assert accepted_language(field).tag == tag


@pytest.mark.parametrize(("name", "tag"), [("de_DE.UTF-8", "de"), ("pt-BR", "pt"), ("C", "en"), ("", "en")])
def test_a_locale_names_a_language(name: str, tag: str) -> None:
    assert language(name).tag == tag


def test_german_shows_german_reasons() -> None:
    german = language("de")
    waits = state(Status.STARTED, WAITING_TEXTS["place"], waiting_for="place")
    assert (word_of(waits.status, 1, german), text_of_state(waits, german)) == (
        "Wartet auf den Start",
        "noch kein Platz frei",
    )
    due = state(Status.STARTED, waiting_for="due")
    assert with_notes("", due, german) == "wartet auf den vorgesehenen Zeitpunkt"
    history: tuple[dict[str, JsonValue], ...] = (
        {"run": 1, "begin": NOON.isoformat(), "end": NOON.isoformat(), "reason": "the process that ran it ended"},
    )
    text = "the process that ran it ended; attempt 2 of 4; no free place yet"
    retry = state(Status.STARTED, text, waiting_for="place", history=history, attempt=2, retries=3)
    assert (
        text_of_state(retry, german) == "der ausführende Prozess wurde beendet; Versuch 2 von 4; noch kein Platz frei"
    )
    assert run_line(history[0], german).endswith("UTC: der ausführende Prozess wurde beendet")
    assert run_line({**history[0], "reason": "continued"}, german).endswith("UTC: fortgesetzt")
    lines = "OperationalError: gone\n\n[SQL: SELECT 1]\n(Background on this error)"
    assert run_line({**history[0], "reason": lines}).endswith(
        " UTC: OperationalError: gone [SQL: SELECT 1] (Background on this error)"
    )
    hidden = without_errors(state(Status.FAILED, "KeyError: 'x'", error=UNEXPECTED))
    assert text_of_state(hidden, german) == "interner Fehler (Auftrag job1)"
    silent = state(Status.FAILED, "job timeout: no sign of life for 3600 s")
    assert text_of_state(silent, german) == "Zeitüberschreitung: seit 3600 s kein Lebenszeichen"
    assert text_of_state(state(Status.IN_PROGRESS, NO_SIGN), german) == "kein Lebenszeichen vom ausführenden Prozess"


FAILURES = [
    (verdict(error=None, finish=None, status=404, message="No such customer"), "404 Nicht gefunden: No such customer"),
    (verdict(error=None, finish=None, status=500), "500 Interner Serverfehler"),
    (verdict(error=None, finish=None, status=302, location="/login"), "302 Weiterleitung → /login"),
    (
        verdict(error=None, finish=None, status=302, location="/login", lost_login=True),
        "302 Weiterleitung → /login: die Anmeldung ist abgelaufen; siehe as_owner",
    ),
    (failed("503 Service Unavailable; attempt 2 of 4"), "503 Dienst nicht verfügbar; Versuch 2 von 4"),
    (failed("503 Service Unavailable: No; attempt 2 of 4"), "503 Dienst nicht verfügbar: No; Versuch 2 von 4"),
    (failed("418 I'm a Teapot: No"), "418 I'm a Teapot: No"),
    (failed("404 Not Found\nin the file"), "404 Not Found\nin the file"),
    (failed("404 rows are missing"), "404 rows are missing"),
]


@pytest.mark.parametrize(("end", "shown"), FAILURES, ids=[shown for _, shown in FAILURES])
def test_the_phrase_of_a_status_is_translated_and_the_message_stays(end: End, shown: str) -> None:
    assert text_of_state(state(Status.FAILED, end.text or ""), language("de")) == shown


def test_the_browser_translates_failures_as_the_server_does() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    script = (
        asset("words.js").decode()
        + """
        globalThis.fetch = async () => ({ ok: true, json: async () => JSON.parse(process.argv[1]) });
        const german = await language("file:///", "de");
        console.log(JSON.stringify(JSON.parse(process.argv[2]).map((text) => german.text(text))));
    """
    )
    texts = json.dumps([end.text for end, _ in FAILURES])
    command = [node, "--input-type=module", "-e", script, language_file("de").decode(), texts]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    assert json.loads(done.stdout) == [shown for _, shown in FAILURES]


@pytest.mark.parametrize("tag", LANGUAGES)
@pytest.mark.parametrize(
    "text", ["Done", "cancelled", "Row 7 is no row; see 8", "continued", "Running", "{number}", "1;2", "internal error"]
)
def test_a_text_of_the_application_is_never_translated(tag: str, text: str) -> None:
    for status in Status:
        assert text_of_state(state(status, text), language(tag)) == text


@pytest.mark.parametrize("status", [Status.IN_PROGRESS, Status.COMPLETED])
def test_the_text_that_an_action_sets_is_not_taken_for_a_sentence_of_backjob(status: Status) -> None:
    text = WAITING_TEXTS["place"]
    assert text_of_state(evolve(state(status), status_text=text), language("de")) == text
