"""An independent implementation of RFC 9421 verifies what a real delivery sends."""

from __future__ import annotations

import base64
import hashlib
from importlib import import_module
from typing import Any, ClassVar, Final, Literal
from urllib.parse import unquote

import pytest
from attrs import evolve, frozen
from http_message_signatures.exceptions import InvalidSignature
from http_message_signatures.resolvers import HTTPSignatureKeyResolver
from http_message_signatures.signatures import HTTPMessageVerifier

from backjob import BackJob
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.testing.transports import Call, Peer
from backjob.transports.sockets import SocketTransport

SECRET: Final = "a-secret-of-the-wire-5Hq2Zt8Lw0Xb7Vn3"
HMAC_SHA256: Any = import_module("http_message_signatures.algorithms").HMAC_SHA256
OURS: Final = ("content-digest", "signature-input", "signature")


class Resolver(HTTPSignatureKeyResolver):
    def resolve_public_key(self, key_id: str) -> bytes:
        return SECRET.encode()


class Verifier(HTTPMessageVerifier):
    # RFC 9421, section 2.3, lets applications add parameters; this implementation needs a list of them.
    signature_metadata_parameters: ClassVar[set[str]] = HTTPMessageVerifier.signature_metadata_parameters | {"path"}


@frozen
class Message:
    """A request in the form that the implementation expects."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes


def message_of(call: Call, carrier: str) -> Message:
    """The received request. The three parameters of the query carrier become the fields that they stand for."""
    target, fields = call.target, dict(call.headers)
    if carrier == "query":
        assert not set(OURS) & fields.keys()
        target, _, own = call.target.partition("backjob-content-digest=")
        target = target[:-1]
        for pair in f"backjob-content-digest={own}".split("&"):
            name, _, value = pair.partition("=")
            fields[name.removeprefix("backjob-")] = unquote(value)
    assert set(OURS) <= fields.keys()
    return Message(call.method, f"http://{fields['host']}{target}", fields, call.body)


class Trusting(SocketTransport):
    """A transport to a server without the middleware, which can't prove anything."""

    in_process = True


def verified(message: Message) -> list[Any]:
    found: list[Any] = Verifier(signature_algorithm=HMAC_SHA256, key_resolver=Resolver()).verify(
        message,
        expect_tag="backjob",
        require_components=("@method", "@path", "@query", "content-digest"),
        body=message.body,
    )
    return found


@pytest.mark.parametrize("carrier", ["query", "header"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"path": "/"},
        {"path": "/reports/work", "query": {"id": [5, 6], "name": "ä b&c"}},
        {"path": "/a%2fb/Grüße?flag", "method": "CHICKEN"},
        {"path": "/import", "method": "POST", "form": {"a": "1", "b": ["x", "y"]}},
        {"path": "/import", "method": "PUT", "body": bytes(range(256)) * 1200},
    ],
    ids=["bare", "query", "custom verb", "form", "large body"],
)
def test_a_sent_request_verifies_and_a_changed_one_does_not(
    carrier: Literal["query", "header"], arguments: dict[str, Any]
) -> None:
    signer = MessageSigner(SECRET, carrier=carrier)
    with Peer() as peer, BackJob(MemoryStore(), Trusting(peer.base_url), signer) as jobs:
        job_id = jobs.start(**arguments, as_current_user=False, headers={"X-Else": "1"})
        call = peer.next_call()
        message = message_of(call, carrier)
        (result,) = verified(message)
        assert result.nonce == f"{job_id}.1.1"
        assert call.header("signature") == ([] if carrier == "query" else [message.headers["signature"]])
        digest = base64.b64encode(hashlib.sha256(call.body).digest()).decode()
        assert message.headers["content-digest"] == f"sha-256=:{digest}:"
        for changed in (
            evolve(message, method=message.method + "X"),
            evolve(message, url=message.url + "x"),
            evolve(message, body=message.body + b"x"),
        ):
            with pytest.raises(InvalidSignature):
                verified(changed)
