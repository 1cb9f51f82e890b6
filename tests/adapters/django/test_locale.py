"""The catalogues of the admin's texts: complete, compiled, and used."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from babel.messages.extract import DEFAULT_KEYWORDS, extract
from babel.messages.mofile import read_mo
from babel.messages.pofile import read_po
from django.contrib.auth.models import User
from django.test import Client, override_settings
from django.utils.translation import override

import backjob.django
from backjob.django import jobs
from backjob.django.testing import recorded
from backjob.status.languages import LANGUAGES

PACKAGE = Path(backjob.django.__file__).parent
LOCALES = {language: {"zh": "zh_Hans"}.get(language, language) for language in LANGUAGES if language != "en"}
_KEYWORDS = {**DEFAULT_KEYWORDS, "gettext_lazy": None}
_TAG = re.compile(r"{% blocktranslate .*?%}(.*?){% endblocktranslate %}")


def path_of(language: str, suffix: str) -> Path:
    return PACKAGE / "locale" / LOCALES[language] / "LC_MESSAGES" / f"django.{suffix}"


@cache
def texts_in_the_code() -> set[Any]:
    """Every text of the package that is translated, as a catalogue has it: plural forms as a tuple."""
    texts: set[Any] = set()
    for path in PACKAGE.rglob("*.py"):
        with path.open("rb") as file:
            texts.update(message for _, message, *_ in extract("python", file, _KEYWORDS))
    for path in PACKAGE.rglob("*.html"):
        texts.update(re.sub(r"{{ (\w+) }}", r"%(\1)s", text) for text in _TAG.findall(path.read_text()))
    return texts


def catalogue(language: str, suffix: str) -> dict[Any, Any]:
    with path_of(language, suffix).open("rb") as file:
        read = read_po(file) if suffix == "po" else read_mo(file)
    return {forms(message.id): forms(message.string) for message in read if message.id}


def forms(text: Any) -> Any:
    """A text, or the tuple of its plural forms, which is also how a single form of a plural is shown."""
    return text if isinstance(text, str) else tuple(text) if len(text) > 1 else text[0]


@pytest.mark.parametrize("language", LOCALES)
def test_each_language_has_every_text_of_the_code_and_no_other(language: str) -> None:
    found = catalogue(language, "po")
    assert set(found) == texts_in_the_code()
    for text, translation in found.items():
        for one in (translation,) if isinstance(translation, str) else translation:
            assert one, text
            assert placeholders(one) == placeholders(text if isinstance(text, str) else text[-1]), text


def placeholders(text: str) -> list[str]:
    return sorted(re.findall(r"%(?:\(\w+\))?[sd]", text))


@pytest.mark.parametrize("language", LOCALES)
def test_the_compiled_catalogue_is_that_of_the_source(language: str) -> None:
    assert catalogue(language, "mo") == catalogue(language, "po")


@pytest.mark.parametrize(("language", "word"), [("de", "Besitzer"), ("zh-hans", "所有者"), ("pt-br", "proprietário")])
def test_the_admin_speaks_the_language_of_the_site(database: str, language: str, word: str) -> None:
    User.objects.create_superuser("Al")
    client = Client()
    client.force_login(User.objects.get())
    with recorded():
        jobs.start("see", as_current_user=False)
    with override_settings(LANGUAGE_CODE=language), override(language):
        page = client.get("/admin/backjob/job/").content.decode()
    assert word in page
