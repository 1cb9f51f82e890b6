"""Who a visitor is, and what a token permits: the hooks of the application, tokens, and public URLs."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from inspect import isawaitable
from typing import Any, Final, TypeVar, cast

from backjob.errors import InvalidRequest
from backjob.http.public import origin_of_url
from backjob.jobs.options import Hook, Options
from backjob.process import Outage
from backjob.signing.tokens import Access, Right, reference
from backjob.status.access import is_like_token
from backjob.status.links import Right as Granted
from backjob.worker.offload import BlockedLoop, wait_for

_R = TypeVar("_R")

_RIGHTS: Final[Mapping[Granted, Right]] = {"view": Right.VIEW, "cancel": Right.CANCEL, "manage": Right.MANAGE}
_WORDS: Final[Mapping[Right, Granted]] = {right: word for word, right in _RIGHTS.items()}


class Visitors:
    """The part of an engine that knows visitors. Adapters override the methods that read the framework's users."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.status_prefix = options.status_prefix
        self.access = Access(options.signer)
        public = () if options.public_url is None else (origin_of_url(options.public_url),)
        self.trusted_origins = (*options.trusted_origins, *public)
        """The other origins whose pages may use the status routes, and the public one."""
        self._other_keys = Outage(options.clock)

    # --- the hooks --------------------------------------------------------------------------------------------------

    def owner_of(self, request: Any) -> str | None:
        """Return the owner of a request: the owner hook's result, or None without a hook."""
        hook = self.options.owner
        return None if hook is None else self.result_of("owner", hook, request)

    def may_see_all(self, request: Any) -> bool:
        """Return whether the user of a request may see the jobs of everyone."""
        hook = self.options.may_see_all
        return hook is not None and bool(self.result_of("may_see_all", hook, request))

    def may_manage_all(self, request: Any) -> bool:
        """Return whether the user of a request may cancel, delete and run again the jobs of everyone."""
        hook = self.options.may_manage_all
        return hook is not None and bool(self.result_of("may_manage_all", hook, request))

    def result_of(self, name: str, hook: Hook[_R], request: Any) -> _R:
        """Call a hook, and wait for its result if it is async. Raises what it raises, and `InvalidRequest` naming it."""
        result: Any = hook(request)
        if not isawaitable(result):
            return cast("_R", result)
        try:
            return cast("_R", self.wait_for(result))
        except BlockedLoop:
            raise InvalidRequest(
                name,
                "is an async function, for which this call would block its event loop: call the async twin, astart()",
            ) from None

    def wait_for(self, awaitable: Awaitable[_R]) -> _R:
        """Return what an awaitable returns. Raises `BlockedLoop` in a thread that is running a coroutine."""
        return wait_for(awaitable)

    # --- tokens and URLs --------------------------------------------------------------------------------------------

    def rights(self, job_id: str, token: str) -> Granted | None:
        """Return the right that a token grants; each includes the ones before it. None grants nothing."""
        right = self.access.rights(job_id, token)
        if right is not None:
            return _WORDS[right]
        if is_like_token(token):
            self._other_keys.warn(
                "a status link was signed with a key that this process does not have; do all processes have the same "
                "key (KEY or SECRET_KEY)?"
            )
        return None

    def reference(self, job_id: str, right: Granted) -> str:
        """Return the last segment of a status URL with this right: ``{id}.{token}``."""
        return reference(job_id, self.access.token(job_id, _RIGHTS[right]))

    def public_mount(self) -> str | None:
        """Return the public URL of the status routes, without a slash at its end, or None without `PUBLIC_URL`."""
        url = self.options.public_url
        return None if url is None else f"{url}{self.status_prefix}"
