"""Signatures, keys, access tokens and sealed credentials. The default signer is `MessageSigner`."""

from backjob.signing.keys import secret_file
from backjob.signing.messages import MessageSigner, derive_key, signature_base

__all__ = ["MessageSigner", "derive_key", "secret_file", "signature_base"]
