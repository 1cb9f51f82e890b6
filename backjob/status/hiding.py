"""Hides the texts of unexpected errors from visitors (the setting ``SHOW_ERRORS``); staff, code and the log have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attrs import evolve

from backjob.lifecycle import UNEXPECTED
from backjob.model import JobState, JsonValue, Status

INTERNAL_ERROR: Final = "internal error"
"""What visitors read in place of an exception."""


def has_hidden_errors(state: JobState) -> bool:
    """Whether the state contains a text that not every visitor may see."""
    return state.error == UNEXPECTED or any(map(_is_hidden, state.history))


def without_errors(state: JobState) -> JobState:
    """Return the state as a visitor sees it: "internal error" and the job's id in place of unexpected errors."""
    if not has_hidden_errors(state):
        return state
    return evolve(state, status_text=_text(state), history=[_without_reason(entry) for entry in state.history])


def _text(state: JobState) -> str:
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
