"""The brokers of Celery in tests: queues and keys of one test on the shared servers, removed afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import redis
from attrs import frozen
from celery import Celery

from tests.services import RABBITMQ, REDIS, Service, own_name

__all__ = ["BROKERS", "ON_RABBITMQ", "ON_REDIS", "Broker", "Place", "clear_redis", "through"]


@frozen
class Place:
    """What one test uses of a broker: its ``url``, and a ``name`` for the queue and as the prefix of everything else."""

    url: str
    name: str

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for `tests.scenarios.apps.carried`."""
        return {"SCENARIO_BROKER": self.url, "SCENARIO_QUEUE": self.name}

    def celery(self, *modules: str) -> Celery:
        """A Celery application that uses nothing else of the broker. Its workers import these modules."""
        app = Celery("scenarios", broker=self.url, include=modules)
        app.conf.update(
            task_default_queue=self.name,
            control_exchange=self.name,
            event_exchange=f"{self.name}.events",
            broker_transport_options={"global_keyprefix": self.name} if self.url.startswith("redis") else {},
            broker_connection_retry_on_startup=True,
        )
        return app


@frozen
class Broker:
    """A kind of broker."""

    name: str
    service: Service

    @contextmanager
    def place(self) -> Iterator[Place]:
        """A place for one test. Without the server the test is skipped with the reason, and fails in CI."""
        place = Place(self.service.require(), own_name())
        try:
            yield place
        finally:
            if self.service is REDIS:
                clear_redis(place.name)
            else:
                _clear_rabbitmq(place)

    def __str__(self) -> str:
        return self.name


ON_RABBITMQ: Final = Broker("RabbitMQ", RABBITMQ)
ON_REDIS: Final = Broker("Redis", REDIS)
BROKERS: Final = (ON_RABBITMQ, ON_REDIS)


def through(url: str, port: int) -> str:
    """The URL with another port of 127.0.0.1."""
    parts = urlsplit(url)
    credentials = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{credentials}@127.0.0.1:{port}" if credentials else f"127.0.0.1:{port}"))


def clear_redis(prefix: str) -> None:
    """Remove all keys with a prefix."""
    with closing(redis.Redis.from_url(REDIS.url)) as client:
        for key in client.scan_iter(f"*{prefix}*", count=1000):
            client.delete(key)


def _clear_rabbitmq(place: Place) -> None:
    with place.celery().connection_for_write() as connection, connection.channel() as channel:
        channel.queue_delete(place.name)
        for pattern in ("{}", "{}.events", "{}.pidbox", "reply.{}.pidbox"):
            channel.exchange_delete(pattern.format(place.name))
