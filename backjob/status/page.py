"""The status page and the fragment: a job's state as escaped HTML that works without JavaScript."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from attrs import frozen

from backjob.model import JobState, clean_text
from backjob.status.element import Shown, element_markup, headline, result_link
from backjob.status.languages import ENGLISH, Language
from backjob.status.templates import asset, fill, places, template

__all__ = [
    "Links",
    "asset",
    "fill",
    "headline",
    "read_page_template",
    "render",
    "render_error",
    "render_fragment",
    "result_link",
]

ELEMENT: Final = "{{>progress}}"
"""The place of the element in a template of the page."""

_PAGE_VALUES: Final = frozenset({"lang", "title", "refresh", "assets", "back", "back_word"})

_ERROR: Final = """<!doctype html>
<html lang="{{lang}}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{{title}}</title>
<link rel="icon" href="data:,">
{{#assets}}<link rel="stylesheet" href="{{assets}}/progress.css">{{/assets}}
</head>
<body class="backjob-page">
<main>
<h1>{{title}}</h1>
<p>{{text}}</p>
{{#back}}<p class="backjob-back"><a href="{{back}}">{{back_word}}</a></p>{{/back}}
</main>
</body>
</html>
"""


@frozen(eq=False, repr=False)
class Links:
    """The URL paths that the page links to.

    ``assets`` is the prefix of progress.js and progress.css. ``job`` is the job's URL, with the visitor's token if any.
    ``cancel`` and ``run_again`` are the targets of forms, or None if this visitor may not do that. ``file`` is the job's file,
    ``back`` the page to return to. ``stream``: use events.
    """

    assets: str
    job: str
    cancel: str | None = None
    stream: bool = False
    run_again: str | None = None
    file: str | None = None
    back: str | None = None


def render(
    state: JobState,
    output: str,
    *,
    more: bool,
    truncated: bool,
    tail: str = "",
    links: Links,
    language: Language = ENGLISH,
    page: str | None = None,
) -> bytes:
    """Return the page in UTF-8. ``output`` is the end of the job's output; ``more``: there is output before it;
    ``truncated``: a part after it is missing, and then comes ``tail``.

    ``page`` is the application's own template, instead of page.html.
    """
    shown = Shown(
        output=output,
        more=more,
        truncated=truncated,
        tail=tail,
        file=links.file or f"{links.job}/file",
        cancel=links.cancel or "",
        run_again=links.run_again or "",
        language=language,
    )
    given = {
        "src": links.job,
        "output": "",
        "stream": "" if links.stream else None,
        "cancel": "" if links.cancel and not state.status.is_final else None,
    }
    values = {
        "lang": language.tag,
        "title": clean_text(title_of(state, language)),
        "refresh": "" if state.status.is_final else "yes",
        "assets": links.assets,
        "back": links.back or "",
        "back_word": language.say("back"),
    }
    before, _, after = (template("page.html") if page is None else page).partition(ELEMENT)
    return (fill(before, values) + element_markup(state, shown, given) + fill(after, values)).encode("utf-8")


def read_page_template(path: str | os.PathLike[str]) -> str:
    """Return an application's own template of the page. Raises `ValueError` if it can't be used."""
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"can't be read: {error}") from None
    if text.count(ELEMENT) != 1:
        raise ValueError(f"{path} must contain {ELEMENT}, the place of the job, once")
    unknown = sorted(places(text.replace(ELEMENT, "")) - _PAGE_VALUES)
    if unknown:
        raise ValueError(f"{path} has the unknown {unknown}; known: {', '.join(sorted(_PAGE_VALUES))}")
    return text


def render_fragment(
    state: JobState,
    output: str,
    *,
    more: bool,
    truncated: bool,
    tail: str = "",
    language: Language = ENGLISH,
    file: str = "",
) -> bytes:
    """Return HTML in UTF-8 for another page: the element as without JavaScript, and without ``src``."""
    shown = Shown(output=output, more=more, truncated=truncated, tail=tail, file=file, language=language)
    return f"{element_markup(state, shown, {'lang': language.tag})}\n".encode()


def render_error(text: str, *, language: Language = ENGLISH, assets: str = "", back: str = "") -> bytes:
    """Return a page with one sentence, in UTF-8. Without ``assets`` it loads nothing, so it works if no route does."""
    values = {
        "lang": language.tag,
        "title": language.say("title"),
        "text": text[:1].upper() + text[1:],
        "assets": assets,
        "back": back,
        "back_word": language.say("back"),
    }
    return fill(_ERROR, values).encode("utf-8")


def title_of(state: JobState, language: Language = ENGLISH) -> str:
    """Return the heading of a job's page: its own title, else its scope, else its path."""
    own = "" if state.title == state.path else state.title
    return own or state.scope or state.title or language.say("title")
