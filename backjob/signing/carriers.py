"""How a signature is serialised, and where a request carries it: at the end of the query, or in header fields.

Strict on purpose: a carrier accepts only what it would have written itself.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Protocol
from urllib.parse import quote, unquote

from backjob.errors import InvalidRequest, SignatureError
from backjob.model import Headers, Request

_LABEL: Final = "backjob"
_TAG: Final = ';tag="backjob"'
_DIGEST: Final = "sha-256=:{}:"
_PARAMETERS: Final = (
    '("@method" "@path" "@query" "content-digest")'
    ';created={};expires={};nonce="{}.{}.{}";keyid="{}";alg="hmac-sha256"' + _TAG
)
_PATH: Final = ';path="{}"'
_SIGNATURE: Final = ":{}:"

_INTEGER: Final = "(0|[1-9][0-9]{0,14})"  # RFC 9651, section 3.3.1: at most 15 digits
_VALUES: Final = (_INTEGER, _INTEGER, "([A-Za-z0-9_-]{1,128})", _INTEGER, _INTEGER, "([A-Za-z0-9_-]{12})")
_MAX_PATH: Final = 8192
# Whatever is longer is refused before it is parsed: no key has proven anything yet.
_MAX_IN_QUERY: Final = 3 * _MAX_PATH + 1024
_MAX_IN_HEADERS: Final = _MAX_PATH + 4096
# Printable ASCII except for the delimiters of RFC 3986 and the characters that a String of RFC 9651 must escape.
_PATH_CHARACTERS: Final = r"/[!$->@-\[\]-~]*"
_CARRIED: Final = re.compile(_PATH_CHARACTERS)


def _pattern(form: str, *groups: str) -> str:
    """Return a regular expression for a format string, with groups in place of its ``{}``."""
    return re.escape(form).replace(r"\{\}", "{}").format(*groups)


class Fields(NamedTuple):
    """The contents of a signature, without the signature itself. ``digest`` is base64; ``path`` is None if left out."""

    created: int
    expires: int
    job_id: str
    run: int
    delivery: int
    keyid: str
    path: str | None
    digest: str

    def content_digest(self) -> str:
        """Return the value of Content-Digest (RFC 9530, section 2)."""
        return _DIGEST.format(self.digest)

    def parameters(self) -> str:
        """Return the inner list of Signature-Input (RFC 9421, section 4.1), which also ends the signature base."""
        text = _PARAMETERS.format(self.created, self.expires, self.job_id, self.run, self.delivery, self.keyid)
        return text if self.path is None else text + _PATH.format(self.path)


_WRITABLE: Final = re.compile(r"\.".join(_VALUES[place] for place in (2, 3, 4, 0, 1)))


def check_writable(fields: Fields) -> None:
    """Raise `InvalidRequest` for values that ``take`` would refuse."""
    if not _WRITABLE.fullmatch(f"{fields.job_id}.{fields.run}.{fields.delivery}.{fields.created}.{fields.expires}"):
        raise InvalidRequest("grant", "has an id, a number or a time that does not fit into a signature")
    if fields.path is not None and len(fields.path) > _MAX_PATH:
        raise InvalidRequest("path", f"is longer than {_MAX_PATH} characters")


class Taken(NamedTuple):
    """A request without its signature, the signature's contents, and the signature as it was written."""

    target: str
    headers: Headers
    fields: Fields
    written: str


class Carrier(Protocol):
    """The place where a request carries its signature."""

    def claims(self, request: Request) -> bool:
        """Return whether the request has any part of a signature. Cheap."""
        ...

    def written(self, fields: Fields, signature: str) -> str:
        """Return the whole signature as it is written. ``signature`` is base64."""
        ...

    def put(self, request: Request, written: str) -> Request:
        """Return the request with the signature. Raises `InvalidRequest` if it already has one."""
        ...

    def take(self, request: Request) -> Taken:
        """The reverse of ``put``. Raises `SignatureError` for everything that ``put`` does not write."""
        ...


class QueryCarrier:
    """Three parameters, the percent-encoded values of the three fields, at the very end of the query."""

    _first: Final = "backjob-content-digest="
    _names: Final = re.compile(r"(?:\A|&)backjob-(?:content-digest|signature-input|signature)(?:[=&]|\Z)")
    _digest_form: Final = _first + quote(_DIGEST, safe="{}")
    _input_form: Final = "&backjob-signature-input=" + quote(f"{_LABEL}={_PARAMETERS}", safe="{}")
    _path_form: Final = quote(_PATH, safe="{}")
    _signature_form: Final = "&backjob-signature=" + quote(f"{_LABEL}={_SIGNATURE}", safe="{}")
    # Wider than base64 and quick to match: the signer writes it again and compares byte by byte.
    _base64: Final = "([A-Za-z0-9%]{44,132})"
    _whole: Final = re.compile(
        _pattern(_digest_form, _base64)
        + _pattern(_input_form, *_VALUES)
        + f"(?:{_pattern(_path_form, '([A-Za-z0-9._~%-]+)')})?"
        + _pattern(_signature_form, _base64)
    )

    def claims(self, request: Request) -> bool:
        return "backjob-" in request.target and self._names.search(request.query) is not None

    def written(self, fields: Fields, signature: str) -> str:
        path = "" if fields.path is None else self._path_form.format(quote(fields.path, safe=""))
        return (
            self._digest_form.format(_escaped(fields.digest))
            + self._input_form.format(
                fields.created, fields.expires, fields.job_id, fields.run, fields.delivery, fields.keyid
            )
            + path
            + self._signature_form.format(_escaped(signature))
        )

    def put(self, request: Request, written: str) -> Request:
        if self.claims(request):
            raise InvalidRequest("query", "backjob-content-digest and backjob-signature… are reserved for the signer")
        joint = "&" if "?" in request.target else "?"
        return Request(request.method, f"{request.target}{joint}{written}", request.headers, request.body)

    def take(self, request: Request) -> Taken:
        start = request.target.rfind(self._first)
        fits = start > 0 and len(request.target) - start <= _MAX_IN_QUERY
        whole = self._whole.fullmatch(request.target, start) if fits else None
        if whole is None:
            raise SignatureError("the signature is not at the end of the query, or not written as backjob writes it")
        target = request.target[: start - 1]
        if request.target[start - 1] != ("&" if "?" in target else "?"):
            raise SignatureError("the signature is not joined to the query with the right delimiter")
        if self._names.search(target.partition("?")[2]):
            raise SignatureError("the query has parameters of a signature more than once")
        digest, created, expires, job_id, run, delivery, keyid, path, _ = whole.groups()
        if path is not None:
            path = unquote(path)
            if not _CARRIED.fullmatch(path):
                raise SignatureError("the signature carries an invalid path")
        fields = Fields(int(created), int(expires), job_id, int(run), int(delivery), keyid, path, _unescaped(digest))
        return Taken(target, request.headers, fields, whole[0])


def _escaped(base64: str) -> str:
    return base64.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")


def _unescaped(base64: str) -> str:
    return base64.replace("%2B", "+").replace("%2F", "/").replace("%3D", "=")


class _Member(NamedTuple):
    """A member of a Dictionary (RFC 9651, section 3.2), in the header field with the index ``place``."""

    place: int
    field: str
    label: str
    value: str


class HeaderCarrier:
    """The fields Content-Digest, Signature-Input and Signature; the latter two may also have other signatures."""

    # Up to the comma that ends a member; commas inside Strings do not.
    _member: Final = re.compile(
        r"[ \t]*+([a-z*][a-z0-9_\-.*]*+)=((?:[^\",]++|\"(?:[^\"\\]++|\\.)*+\")++)(?:,(?=[ \t]*+[a-z*])|\Z)"
    )
    _base64: Final = "([A-Za-z0-9+/]{43}=)"
    _digest: Final = re.compile(_pattern(_SIGNATURE, _base64))
    _parameters: Final = re.compile(
        _pattern(_PARAMETERS, *_VALUES) + "(?:" + _pattern(_PATH, f"({_PATH_CHARACTERS})") + ")?"
    )
    _wanted: Final = frozenset({"content-digest", "signature", "signature-input"})

    def claims(self, request: Request) -> bool:
        for name, value in request.headers:
            if len(name) == 15 and _TAG[1:] in value and name.lower() == "signature-input":
                return True
        return False

    def written(self, fields: Fields, signature: str) -> str:
        return f"{fields.content_digest()}\n{fields.parameters()}\n{_SIGNATURE.format(signature)}"

    def put(self, request: Request, written: str) -> Request:
        for name, value in request.headers:
            lowered = name.lower()
            if lowered == "content-digest":
                raise InvalidRequest("headers", "Content-Digest is reserved for the signer")
            if lowered in self._wanted and (_TAG[1:] in value or f"{_LABEL}=" in value):
                raise InvalidRequest("headers", f"the label and tag {_LABEL} are reserved for the signer")
        digest, parameters, signature = written.split("\n")
        own = (
            ("Content-Digest", digest),
            ("Signature-Input", f"{_LABEL}={parameters}"),
            ("Signature", f"{_LABEL}={signature}"),
        )
        return Request(request.method, request.target, request.headers + own, request.body)

    def take(self, request: Request) -> Taken:
        members = self._members(request.headers)
        # A proxy may change the label, which is not signed (RFC 9421, section 7.2.5): find our member by its tag.
        tagged = [member for member in members if member.field == "signature-input" and _TAG in member.value]
        label = tagged[0].label if tagged else None
        own = [member for member in members if member.field == "content-digest" or member.label == label]
        by_field = {member.field: member for member in own}
        if len(tagged) != 1 or len(own) != 3 or len(by_field) != 3:
            raise SignatureError("Content-Digest or a part of the signature is missing, or there is more than one")
        digest = self._digest.fullmatch(by_field["content-digest"].value)
        parameters = self._parameters.fullmatch(by_field["signature-input"].value)
        signature = self._digest.fullmatch(by_field["signature"].value)
        if digest is None or parameters is None or signature is None:
            raise SignatureError("Content-Digest or the signature is not written as backjob writes it")
        created, expires, job_id, run, delivery, keyid, path = parameters.groups()
        fields = Fields(int(created), int(expires), job_id, int(run), int(delivery), keyid, path, digest[1])
        if by_field["content-digest"].label != "sha-256":
            raise SignatureError("Content-Digest does not use SHA-256")
        written = f"{fields.content_digest()}\n{parameters[0]}\n{signature[0]}"
        return Taken(request.target, self._without(own, members, request.headers), fields, written)

    def _members(self, headers: Headers) -> list[_Member]:
        if sum(len(value) for name, value in headers if name.lower() in self._wanted) > _MAX_IN_HEADERS:
            raise SignatureError("the header fields of the signature are too long")
        members: list[_Member] = []
        for place, (name, value) in enumerate(headers):
            if (field := name.lower()) not in self._wanted:
                continue
            at = 0
            while at < len(value):
                member = self._member.match(value, at)
                if member is None:
                    raise SignatureError(
                        f"{name} is not a valid Dictionary (RFC 9651, section 3.2) of signatures or digests"
                    )
                members.append(_Member(place, field, member[1], member[2].rstrip(" \t")))
                at = member.end()
        return members

    def _without(self, own: list[_Member], members: list[_Member], headers: Headers) -> Headers:
        places = {member.place for member in own}
        left: list[tuple[str, str]] = []
        for place, pair in enumerate(headers):
            if place not in places:
                left.append(pair)
            elif others := [f"{m.label}={m.value}" for m in members if m.place == place and m not in own]:
                left.append((pair[0], ", ".join(others)))
        return tuple(left)


CARRIERS: Final[dict[str, Carrier]] = {"query": QueryCarrier(), "header": HeaderCarrier()}
