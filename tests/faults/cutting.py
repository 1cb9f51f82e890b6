"""A TCP proxy in front of a store's server that cuts a connection instead of forwarding a response."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.scenarios.client import WAIT

__all__ = ["CuttingProxy"]


class CuttingProxy:
    """Forwards connections from ``port`` to the port ``upstream``."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._lock = threading.Lock()
        self._remaining: int | None = None
        self._sockets: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for one in [self._listening, *self._sockets]:
            _shut(one)
        for thread in self._threads:
            thread.join(WAIT)
        for one in [self._listening, *self._sockets]:
            one.close()

    def cut_after(self, responses: int) -> None:
        """Forward ``responses`` responses, and cut the connection instead of forwarding the next one."""
        with self._lock:
            self._remaining = responses

    def has_cut(self) -> bool:
        """Whether it has cut a connection since `cut_after`. If not, it no longer will."""
        with self._lock:
            waiting, self._remaining = self._remaining is not None, None
            return not waiting

    def _accept(self) -> None:
        with suppress(OSError):  # the socket was shut down
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._upstream), WAIT)
                self._sockets += [client, server]
                for source, sink, responses in ((client, server, False), (server, client, True)):
                    thread = threading.Thread(target=self._forward, args=(source, sink, responses))
                    self._threads.append(thread)
                    thread.start()

    def _forward(self, source: socket.socket, sink: socket.socket, responses: bool) -> None:
        source.settimeout(None)
        with suppress(OSError):
            while (data := source.recv(65536)) and not (responses and self._cuts()):
                sink.sendall(data)
        _shut(source)
        _shut(sink)

    def _cuts(self) -> bool:
        with self._lock:
            if self._remaining is None:
                return False
            self._remaining = self._remaining - 1 if self._remaining else None
            return self._remaining is None


def _shut(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
