"""An ASGI application that counts reads of its store. ``/cost`` returns them with the memory and threads of the process.
``/bare`` is a stream of one event that stays open: the baseline, which any open stream costs on this server.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from backjob import BackJob
from backjob.asgi import BackJobMiddleware
from backjob.signing import MessageSigner
from backjob.stores import open_store
from backjob.transports.sockets import SocketTransport
from tests.unit.core import FaultyStore

__all__ = ["app"]

_store: Any = FaultyStore(open_store(os.environ["BACKJOB_STORE"]))
_jobs = BackJob(_store, SocketTransport, MessageSigner(os.environ["BACKJOB_KEY"]))


def _cost() -> dict[str, int]:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return {
        "reads": _store.count("get", "output"),
        "resident": pages * os.sysconf("SC_PAGE_SIZE"),
        "threads": threading.active_count(),
    }


async def _site(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body = b"ready"
    if scope["path"] == "/cost":
        body = json.dumps(_cost()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/bare":
        await send({"type": "http.response.body", "body": b"data: bare\n\n", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
    await send({"type": "http.response.body", "body": body})


app = BackJobMiddleware(_site, _jobs)
