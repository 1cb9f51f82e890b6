"""docs/troubleshooting.md explains every warning and error that backjob logs, every reason why a job fails, and every exception."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import Final

from backjob import errors
from backjob.lifecycle import waiting
from tests.docs.pages import ROOT

PAGE: Final = ROOT / "docs" / "troubleshooting.md"
_LOGS: Final = frozenset({"error", "exception", "log", "warn", "warning"})
_ENDS: Final = frozenset({"JobFailed", "Undeliverable", "failed"})


def shape(text: str) -> str:
    """A message with … in place of its values."""
    return re.sub(r"%(?:\.\d+)?[a-z]|\{[^{}]*\}", "…", text)


def text_of(node: ast.expr) -> str:
    """A literal or formatted text, with … in place of its values; empty if it is neither."""
    match node:
        case ast.Constant(value=str(text)):
            return shape(text)
        case ast.JoinedStr():
            return "".join(shape(str(p.value)) if isinstance(p, ast.Constant) else "…" for p in node.values)
        case _:
            return ""


@cache
def calls() -> tuple[tuple[str, str, list[str]], ...]:
    """Each call in the package: its place, the name of what it calls, and its texts of several words."""
    found = []
    for path in sorted((ROOT / "backjob").rglob("*.py")):
        if {"testing", "migrations"} & set(path.parts):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                texts = [text for text in map(text_of, node.args) if " " in text and re.search(r"\w", text)]
                found.append((f"{path.relative_to(ROOT)}:{node.lineno}", name, texts))
    return tuple(found)


def logged() -> dict[str, str]:
    """Each warning and error that backjob logs, with its place."""
    found = {}
    for place, name, texts in calls():
        if place.startswith("backjob/cli/") or not texts:
            continue
        if name in _LOGS and not texts[0].startswith(("… failed", "… waits", "… (and")) and texts[0] != "job …: …":
            found[texts[0]] = place
        elif name == "attempt":
            found[f"{texts[0]} waits for the store: …"] = found[f"{texts[0]} failed; backjob retries"] = place
        elif name == "call_contained":
            found[f"{texts[0]} failed"] = place
    return found


def explained() -> set[str]:
    """The messages in the first cells of the page's tables."""
    rows = re.findall(r"^\| (`.*?`) (?:\||$)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {message for row in rows for message in re.findall(r"`([^`]+)`", row)}


def test_the_page_explains_every_warning_and_error_of_the_log() -> None:
    messages = logged()
    assert "job …: its stored row is not as this application wrote it, so nothing was sent" in messages
    assert {text: place for text, place in messages.items() if text not in explained()} == {}


def test_the_page_explains_no_message_that_is_gone() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("\n## In the log\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE)
    listed = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    assert len(listed) > 40
    assert [message for message in listed if message not in logged()] == []


def test_the_page_explains_every_reason_why_a_job_fails() -> None:
    begin = {re.split("[;:…]", text)[0] if "…" in text else text for text in explained()}
    reasons = {text: place for place, name, texts in calls() if name in _ENDS for text in texts}
    assert "expired: not started in time" in reasons
    unexplained = {
        text: place
        for text, place in reasons.items()
        if not text.startswith("…") and text not in begin and re.split("[;:…]", text)[0] not in begin
    }
    assert unexplained == {}


def test_the_page_names_every_exception_and_every_reason_to_wait() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in errors.__all__ if not re.search(rf"`{name}\b", page)] == []
    assert [name for name in waiting.WAITING_TEXTS if f"| `{name}` |" not in page] == []
