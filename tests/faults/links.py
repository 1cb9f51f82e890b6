"""The link between a process and its store's server or broker, which a test cuts, lets hang, or records."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.scenarios.client import WAIT

__all__ = ["Link"]


class Link:
    """Forwards connections from ``port`` to ``upstream`` until it is broken, and again once it is restored.

    ``recorded`` has all bytes that it has forwarded, in both directions, if it ``records``.
    """

    def __init__(self, upstream: tuple[str, int], *, records: bool = False) -> None:
        self.recorded = bytearray()
        self._records = records
        self._upstream = upstream
        self._is_whole = threading.Event()
        self._is_whole.set()
        self._refuses = False
        self._sockets: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.restore()
        for one in [self._listening, *self._sockets]:
            _shut(one)
            one.close()

    def cut(self) -> None:
        """Close all connections, and each new one at once."""
        self._refuses = True
        for one in self._sockets:
            _shut(one)

    def hang(self) -> None:
        """Keep all connections, also new ones, but forward nothing."""
        self._is_whole.clear()

    def restore(self) -> None:
        """Forward again, first what has waited."""
        self._refuses = False
        self._is_whole.set()

    def _accept(self) -> None:
        with suppress(OSError):  # the socket was shut down
            while True:
                client, _ = self._listening.accept()
                if self._refuses:
                    client.close()
                    continue
                server = socket.create_connection(self._upstream, WAIT)
                server.settimeout(None)
                self._sockets += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._is_whole.wait()
                if self._records:
                    self.recorded += data
                sink.sendall(data)
        _shut(source)
        _shut(sink)


def _shut(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
