"""Applies the options about inherited header fields: when a job starts, and when its action sees the fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from backjob.errors import InvalidRequest
from backjob.http.arguments import canonical_name
from backjob.http.inherited import context_fields, current_credentials, is_context_field, variants
from backjob.jobs.options import Options
from backjob.model import Credentials, Headers, Job, Request
from backjob.signing.logins import FIELD, LoginCarrier


class Inheritance:
    """Applies the options that name header fields. Immutable. Raises `InvalidRequest` if they contradict each other."""

    __slots__ = ("_forward", "_logins", "names")

    def __init__(self, options: Options) -> None:
        secret = {name.lower() for name in options.credential_headers}
        for name in options.forward_headers:
            if canonical_name(name) in secret:
                raise InvalidRequest(
                    "forward_headers", f"{name} is also among credential_headers, which are never stored"
                )
        self._forward = options.forward_headers
        self._logins = LoginCarrier(options.signer, options.credential_headers)
        self.names = options.credential_headers
        """The names of fields that are credentials, besides Cookie and Authorization."""

    def credentials(
        self, here: Request, given: Credentials, changed_cookies: Callable[[], Mapping[str, str | None]]
    ) -> Credentials:
        """Return the current user's credentials, without the fields in ``given``. Raises `InvalidRequest` for an invalid value."""
        return current_credentials(here, given, self.names, changed_cookies)

    def context_of(self, here: Request, given: Headers) -> Headers:
        """Return the fields that describe the starting request, without those that were ``given``."""
        return context_fields(here, given, self._forward)

    def packed(self, job_id: str, credentials: Credentials) -> Credentials:
        """Return the credentials in the form in which this job's worker request sends them."""
        return self._logins.pack(job_id, credentials)

    def logins(self, job_id: str, request: Request) -> dict[str, str | None]:
        """Return the fields of logins that the action gets; None removes one. Raises `SignatureError`.

        A field that merely arrived with a worker request proves nothing, so it is removed.
        """
        fields: dict[str, str | None] = {FIELD: None}
        for name in self.names:
            fields.update(dict.fromkeys(variants(name)))
        return fields | dict(self._logins.unpack(job_id, request))

    def context(self, job: Job) -> dict[str, str | None]:
        """Return the context fields of the starting request. A proxy may have replaced those of the worker request."""
        request = job.request
        if request is None:
            return {}
        return {name: request.header(name) for name, _ in request.headers if is_context_field(name, self._forward)}
