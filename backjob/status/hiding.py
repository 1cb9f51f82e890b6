"""Hides internals from visitors (the setting ``SHOW_ERRORS``): the texts of unexpected errors, and targets of redirects.

Staff, code and the log have them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from attrs import evolve

from backjob.lifecycle import LOGIN_EXPIRED, UNEXPECTED
from backjob.model import JobState, JsonValue, Status

INTERNAL_ERROR: Final = "internal error"
"""What visitors read in place of an exception."""

REDIRECTED: Final = "the job was redirected, perhaps to a login page"
"""What visitors read in place of a redirect, whose target may be an internal path."""

_REDIRECT: Final = re.compile(r"3\d\d\b[^→\n]* → .*", re.DOTALL)


def has_hidden_errors(state: JobState) -> bool:
    """Whether the state contains a text that not every visitor may see."""
    return state.error == UNEXPECTED or _is_redirected(state) or any(map(_is_hidden, state.history))


def without_errors(state: JobState) -> JobState:
    """Return the state as a visitor sees it: "internal error" and the job's id in place of unexpected errors, for example."""
    if not has_hidden_errors(state):
        return state
    return evolve(state, status_text=_text(state), history=[_without_reason(entry) for entry in state.history])


def _is_redirected(state: JobState) -> bool:
    return state.status is Status.FAILED and _REDIRECT.fullmatch(state.status_text) is not None


def _text(state: JobState) -> str:
    if _is_redirected(state):
        return LOGIN_EXPIRED if state.status_text.endswith(LOGIN_EXPIRED) else REDIRECTED
    if state.error != UNEXPECTED:
        return state.status_text
    hidden = f"{INTERNAL_ERROR} (job {state.id})"
    if state.status is not Status.STARTED or not state.history:
        return hidden
    # The text of a job that waits for its retry begins with the reason of the last run.
    return hidden + state.status_text.removeprefix(str(state.history[-1].get("reason")))


def _is_hidden(entry: Mapping[str, JsonValue]) -> bool:
    return entry.get("error") == UNEXPECTED


def _without_reason(entry: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    return {**entry, "reason": INTERNAL_ERROR} if _is_hidden(entry) else entry
