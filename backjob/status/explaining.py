"""Errors of the status routes: a page in the visitor's language for a person, JSON in English for a program."""

from __future__ import annotations

from typing import Final

from backjob.status.exchange import JSON, StatusResponse, Visit, error_response, preferred, text_response
from backjob.status.languages import ENGLISH, Language, accepted_language
from backjob.status.page import render_error

HTML: Final = "text/html"
PAGE_POLICY: Final = (
    "Content-Security-Policy",
    (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; "
        "img-src data:; base-uri 'none'; frame-ancestors 'self'"
    ),
)
# For programs, whose error messages stay.
_ERRORS: Final = {
    "not_found": "not found",
    "unavailable": "the store is not available at the moment",
    "no_list": "the store of this application can't list its jobs",
}


def not_configured(accept: str | None) -> StatusResponse:
    """Return the response to every status request while jobs can't be used. The reason is in the log alone."""
    return explained(503, "not_configured", accept, ENGLISH)


def explained(
    status: int,
    word: str,
    accept: str | None,
    language: Language,
    *more: tuple[str, str],
    assets: str = "",
    back: str = "",
    reason: str = "",
) -> StatusResponse:
    """Return an error: a page for a person, otherwise JSON in English. ``word`` is its name in the table of words.

    A program gets the ``reason`` instead.
    """
    if preferred(accept, (JSON, HTML)) == JSON:
        said = ENGLISH.say(word)
        return error_response(status, reason or _ERRORS.get(word) or said[:1].lower() + said[1:], *more)
    body = render_error(language.say(word), language=language, assets=assets, back=back)
    return text_response(status, HTML, body, PAGE_POLICY, *more)


def language_of(visit: Visit) -> Language:
    """Return the language in which to answer this visitor."""
    return accepted_language(visit.request.header("accept-language"))
