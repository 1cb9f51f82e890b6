"""The database servers and brokers that tests use.

Each URL may be set in the environment, see `SERVICES`. If a server does not answer, the test is skipped with the reason; in
CI it fails.
"""

from __future__ import annotations

import os
import secrets
import socket
from typing import Final
from urllib.parse import urlsplit

import pytest
from attrs import frozen

__all__ = ["MARIADB", "POSTGRES", "RABBITMQ", "REDIS", "SERVICES", "Service", "own_name"]


@frozen
class Service:
    """A server. ``variable`` is the name of its URL in the environment, ``default`` its URL otherwise."""

    name: str
    variable: str
    default: str

    @property
    def url(self) -> str:
        return os.environ.get(self.variable, self.default)

    def require(self) -> str:
        """The URL, if the server answers. Otherwise skip the test, or with ``CI`` in the environment, fail it."""
        __tracebackhide__ = True
        parts = urlsplit(self.url)
        try:
            socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 0), timeout=5).close()
        except OSError as error:
            reason = f"{self.name} does not answer at {parts.hostname}:{parts.port} ({error}); set {self.variable} to its URL"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        return self.url


POSTGRES: Final = Service("PostgreSQL", "TEST_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1:5432/test")
MARIADB: Final = Service(
    # PyMySQL reads all certificate authorities for each connection, 35 ms of processor time, even if the server has no TLS.
    "MariaDB",
    "TEST_MARIADB",
    "mariadb+pymysql://root@127.0.0.1:3306/test?ssl_disabled=true",
)
REDIS: Final = Service("Redis", "TEST_REDIS", "redis://127.0.0.1:6379/0")
RABBITMQ: Final = Service("RabbitMQ", "TEST_RABBITMQ", "amqp://guest:guest@127.0.0.1:5672//")
SERVICES: Final = (POSTGRES, MARIADB, REDIS, RABBITMQ)


def own_name() -> str:
    """A name for a schema, a table, a prefix or a queue that no other test uses."""
    return f"backjob_test_{os.getpid()}_{secrets.token_hex(4)}"
