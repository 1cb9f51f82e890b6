"""The languages of the words that users read: one JSON file for each, shared by the page and the progress element.

A file has four tables. ``words`` are backjob's own words, by name; ``{placeholders}`` stand for values. ``sentences``
translate the texts that backjob itself writes as a job's status text, by their English form; ``reasons`` those that it
writes only into a job's history. ``units`` are durations, for one and for several.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Final

from attrs import frozen

from backjob.status.packaged import packaged_file

LANGUAGES: Final = ("en", "de", "fr", "es", "it", "pt", "nl", "pl", "ja", "zh")
"""The tags of the languages that backjob speaks; the first one is the default."""

UNITS: Final = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))
"""Units of a duration, and their seconds."""

_PLACE: Final = re.compile(r"\{(\w+)\}")
_NUMBER: Final = re.compile(r"\d[\d.e+]*")
_JOB: Final = re.compile(r"\(job ([\w-]+)\)")
_STATUS: Final = re.compile(r"([345]\d\d)( [A-Z][A-Za-z -]*)( → \S+)?(?:: (.+))?", re.DOTALL)
"""A status with its phrase, the target of a redirect, and the message of a failure."""
_QUALITY: Final = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")
_SUBTAG: Final = re.compile(r"[-_.@]")


@frozen(eq=False, repr=False)
class Language:
    """The words of one language. ``tag`` is its BCP 47 tag, such as ``de``."""

    tag: str
    words: Mapping[str, str]
    sentences: Mapping[str, str]
    reasons: Mapping[str, str]
    units: Mapping[str, tuple[str, str]]

    def say(self, word: str, /, **values: object) -> str:
        """Return a text by its name, with the values in place of its placeholders."""
        return _PLACE.sub(lambda place: str(values[place[1]]), self.words[word])

    def sentence(self, text: str) -> str:
        """Return the translation of a sentence, or of several with "; " between them. Unknown ones stay as they are."""
        whole = self._one(text)
        return "; ".join(self._one(part) or part for part in text.split("; ")) if whole is None else whole

    def reason(self, text: str) -> str:
        """Return the translation of a reason why an earlier run ended."""
        return self.reasons.get(text) or self.sentence(text)

    def _one(self, text: str) -> str | None:
        failure = _STATUS.fullmatch(text)
        if failure is not None:
            number, phrase, target, message = failure.groups("")
            line = self.sentences.get("{number}" + phrase)
            end = f"{target}{self.say('separator')}{self.sentence(message)}" if message else target
            return None if line is None else line.replace("{number}", number) + end
        job = _JOB.search(text)
        numbers = iter(() if job else _NUMBER.findall(text))
        translated = self.sentences.get(_JOB.sub("(job {job})", text) if job else _NUMBER.sub("{number}", text))
        if translated is None:
            return None
        return _PLACE.sub(lambda place: job[1] if job and place[1] == "job" else next(numbers, ""), translated)

    def duration(self, seconds: float) -> str:
        """Return a duration in its two largest units: ``2 hr 5 min``."""
        rest = int(seconds)
        largest = next((index for index, (_, size) in enumerate(UNITS) if rest >= size), len(UNITS) - 1)
        shown: list[str] = []
        for unit, size in UNITS[largest : largest + 2]:
            count, rest = divmod(rest, size)
            if count or not shown:
                shown.append(self.units[unit][count != 1].replace("{n}", str(count)))
        return " ".join(shown)


@cache
def language_file(tag: str) -> bytes:
    """Return the JSON file of one of the `LANGUAGES`."""
    return packaged_file(f"languages/{tag}.json")


def language(tag: str) -> Language:
    """Return the language of a tag such as ``de-AT``, or of a locale such as ``de_DE.UTF-8``; English if there is none."""
    return _loaded(_known(tag) or LANGUAGES[0])


@cache  # by the languages that exist, so that requests can't fill it
def _loaded(tag: str) -> Language:
    tables = json.loads(language_file(tag))
    units = {name: (one, several) for name, (one, several) in tables["units"].items()}
    return Language(tag, tables["words"], tables["sentences"], tables["reasons"], units)


def accepted_language(field: str | None) -> Language:
    """Return the language that an Accept-Language field prefers (RFC 9110, section 12.5.4); English if none fits."""
    ranges: list[tuple[float, str]] = []
    for part in (field or "").split(","):
        name, *parameters = (text.strip() for text in part.split(";"))
        weight = next((value[2:].strip() for value in parameters if value.lower().startswith("q=")), "1")
        quality = float(weight) if _QUALITY.fullmatch(weight) else 0.0
        known = LANGUAGES[0] if name == "*" else _known(name)
        if known and quality > 0:
            ranges.append((quality, known))
    # max() returns the first of equals, which is the order in which the browser prefers them.
    return language(max(ranges, key=lambda one: one[0])[1] if ranges else LANGUAGES[0])


def _known(tag: str) -> str | None:
    primary = _SUBTAG.split(tag.strip().lower(), maxsplit=1)[0]
    return primary if primary in LANGUAGES else None


ENGLISH: Final = language("en")
