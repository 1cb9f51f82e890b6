"""The message in the body of an error response: what the action says about its failure, in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html import unescape
from typing import Final

from backjob.http.content import TextDecoder, is_json, media_type
from backjob.model import clean_text

LONGEST_MESSAGE: Final = 2000
"""Characters."""

_LONGEST_WORDS: Final = 300
"""Characters. An HTML body with more of them is a page, not a message."""
_KEYS: Final = ("detail", "message", "error", "title")
_LISTS_OF_ALL: Final = frozenset({"non_field_errors", "__all__"})
_DEEPEST: Final = 6
_INLINE: Final = frozenset(
    {"a", "abbr", "b", "code", "em", "i", "mark", "q", "s", "small", "span", "strong", "u", "wbr"}
)
_MARKUP: Final = re.compile(
    r"<(/?)([A-Za-z][^\s/<>]*)(?:[^<>\"']|\"[^<\"]*\"|'[^<']*')*>?"  # a tag; it ends before "<" if it is broken
    r"|<[!?][^<>]*>?|([^<]+|<)"
)
_SKIPPED: Final = frozenset({"head", "title", "script", "style", "template", "svg"})


def message_of(body: bytes, content_type: str, line: str, *, is_whole: bool = True) -> str | None:
    """Return the message in a body, or None if there is none besides the status ``line``, such as ``404 Not Found``.

    It is the text of a ``text/plain`` body; the ``detail``, ``message``, ``error`` or ``title`` of JSON, or its errors by
    field; and the words of a short HTML body. ``is_whole`` is False if the body was cut off.
    """
    found: str | None = None
    if is_json(content_type):
        found = _of_json(body) if is_whole else None
    elif media_type(content_type) in ("text/html", "application/xhtml+xml"):
        found = _of_html(_text(body, content_type), line) if is_whole else None
    elif media_type(content_type) == "text/plain":
        found = _text(body, content_type)
    message = _one_line(found or "")
    if not message or _plain(message) in _stock(line):
        return None
    return message if len(message) <= LONGEST_MESSAGE else message[:LONGEST_MESSAGE] + " …"


def _text(body: bytes, content_type: str) -> str:
    return TextDecoder(content_type).decode(body, final=True)


def _stock(line: str) -> frozenset[str]:
    """Return what says nothing besides the status line."""
    code, _, phrase = line.lower().partition(" ")
    return frozenset({f"{code} {phrase}", phrase, f"{phrase} ({code})", f"server error ({code})", "server error"})


def _plain(text: str) -> str:
    return text.lower().rstrip(".")


def _one_line(text: str) -> str:
    return " ".join(clean_text(text).split())


# --- JSON -----------------------------------------------------------------------------------------------------------


def _of_json(body: bytes) -> str | None:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return _words(value)


def _words(value: object, depth: int = 0) -> str | None:
    if isinstance(value, str):
        return value
    if depth > _DEEPEST:
        return None
    if isinstance(value, Mapping):
        return _of_mapping(value, depth)
    if isinstance(value, Sequence):
        return "; ".join(words for item in value if (words := _words(item, depth + 1))) or None
    return None if value is None or isinstance(value, bool) else str(value)


def _of_mapping(value: Mapping[str, object], depth: int) -> str | None:
    if isinstance(value.get("msg"), str) and isinstance(value.get("loc"), Sequence):  # one of FastAPI's errors
        place = ".".join(str(part) for part in value["loc"] if part != "__root__")  # type: ignore[attr-defined]
        return f"{place}: {value['msg']}" if place else str(value["msg"])
    for key in _KEYS:
        words = _words(value[key], depth + 1) if key in value else None
        if words and not _is_list_of_a_field(value[key]):
            return words
    return "; ".join(_by_field(value, depth)) or None


def _is_list_of_a_field(value: object) -> bool:
    """Whether a value has the form of DRF's errors of one field: a list of texts. A form may have a field ``title``."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _by_field(value: Mapping[str, object], depth: int) -> Iterator[str]:
    """Yield the errors of each field, as Django REST framework lists them."""
    for name, errors in value.items():
        if not isinstance(errors, Sequence | Mapping) or isinstance(errors, str):
            continue  # a plain value, such as a code, is no list of errors
        if isinstance(errors, Sequence) and all(isinstance(item, str) for item in errors):
            words: str | None = " ".join(str(item) for item in errors)
        else:
            words = _words(errors, depth + 1)
        if words:
            yield words if name in _LISTS_OF_ALL else f"{name}: {words}"


# --- HTML -----------------------------------------------------------------------------------------------------------


def _of_html(text: str, line: str) -> str | None:
    dropped = _stock(line)
    words = [block for one in _blocks(text) if (block := _one_line(one)) and _plain(block) not in dropped]
    found = " ".join(words)
    return found if len(found) <= _LONGEST_WORDS else None


def _blocks(text: str) -> list[str]:
    """Return the texts between tags, without those of the head, scripts and styles. An inline element ends no block.

    The body may be anything: this takes time in proportion to its length, unlike `html.parser`, and raises nothing.
    """
    blocks = [""]
    skipped = 0
    for found in _MARKUP.finditer(_without_comments(text)):
        end, tag, words = found[1], (found[2] or "").lower(), found[3]
        if words is not None:
            if not skipped:
                blocks[-1] += words
            continue
        if tag in _SKIPPED:
            skipped = max(0, skipped - 1) if end else skipped + 1
        elif tag == "body" and not end:
            skipped = 0  # a head may lack its end tag
        if tag not in _INLINE:
            blocks.append("")
    return [unescape(block) for block in blocks]


def _without_comments(text: str) -> str:
    first, *others = text.split("<!--")
    return first + "".join(other.partition("-->")[2] for other in others)
