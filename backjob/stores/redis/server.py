"""How the Redis store speaks to its server: each script sent once, and every error of the driver told as one of ours."""

from __future__ import annotations

import logging
from typing import Any, Final

from backjob.errors import InvalidRequest, MissingExtra, StoreError, StoreUnavailable, StoreUnusable
from backjob.stores.redis.scripts import LAYOUT, OVER_LAYOUT, Script

try:
    from redis import ConnectionPool, Redis
    from redis.backoff import NoBackoff
    from redis.cluster import RedisCluster
    from redis.exceptions import (
        AskError,
        AuthenticationError,
        AuthenticationWrongNumberOfArgsError,
        AuthorizationError,
        ChildDeadlockedError,
        ClusterDownError,
        MovedError,
        NoPermissionError,
        NoScriptError,
        OutOfMemoryError,
        ReadOnlyError,
        RedisClusterException,
        RedisError,
        ResponseError,
        TryAgainError,
    )
    from redis.retry import Retry
except ImportError as missing:
    raise MissingExtra("RedisStore", "redis") from missing

__all__ = ["Redis", "RedisCluster", "Server"]

_log = logging.getLogger("backjob")

_CONNECT_TIMEOUT: Final = 5.0  # s
_ANSWER_TIMEOUT: Final = 10.0  # s: a script takes milliseconds, a busy or swapping server longer
_IDLE: Final = 30  # s after which a connection is asked whether it still stands, before anything is sent on it

_FORBIDDEN: Final = (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    NoPermissionError,
)
_PASSING: Final = (AskError, ClusterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError)
_PASSING_CODES: Final = ("BUSY", "MISCONF", "NOREPLICAS", "UNKILLABLE")
_ADVICE: Final = {
    OVER_LAYOUT: f"another version of backjob keeps its jobs here, in another layout than {LAYOUT}; choose another prefix",
    "WRONGTYPE": "something else keeps its keys under this prefix; choose another prefix",
}


class Server:
    """The server, or Cluster, of a client or a URL. Callable from any thread, and in a forked child.

    What is sent is sent once: where an answer is lost, nobody knows whether the script ran, and a report that ran twice
    would append twice. Only connecting, and the question whether an idle connection still stands, are tried again.
    """

    def __init__(self, client_or_url: str | Redis | RedisCluster, key: str) -> None:
        self._key = key.encode()
        """What every script gets as its KEYS[1]; all keys lie in its slot."""
        # redis-py's own methods are but half annotated.
        self._cluster: Any = client_or_url if isinstance(client_or_url, RedisCluster) else None
        self._owned = isinstance(client_or_url, str)
        self._pool: Any = None
        if isinstance(client_or_url, str):
            self._pool = _own_pool(client_or_url)
        elif isinstance(client_or_url, Redis):
            self._pool = client_or_url.connection_pool
        elif self._cluster is None:
            raise InvalidRequest(
                "client_or_url", "expected is a URL, or a client of redis-py: redis.Redis or redis.cluster.RedisCluster"
            )
        encoder = (self._cluster or self._pool).get_encoder()
        if encoder.decode_responses:
            raise InvalidRequest(
                "client_or_url",
                "jobs hold bytes that are no text: give a client with decode_responses=False, its default (two clients "
                "may use one server)",
            )
        self._name = f"{'Redis Cluster' if self._cluster else _address(self._pool)}, keys {key}:*"

    def run(self, script: Script, *arguments: Any) -> Any:
        """What the script returns. Raises `StoreUnavailable` or `StoreUnusable`."""
        try:
            try:
                return self._send("EVALSHA", script.digest, 1, self._key, *arguments)
            except NoScriptError:  # then nothing has run: the server is new, or its scripts were flushed
                return self._send("EVAL", script.source, 1, self._key, *arguments)
        except (RedisError, RedisClusterException, ChildDeadlockedError) as error:
            raise self._translated(error) from error

    def close(self) -> None:
        """Close the idle connections if they are ours; the application's client stays as it is."""
        if self._owned:
            self._pool.disconnect(inuse_connections=False)

    def warn(self, text: str, *arguments: object) -> None:
        """Log a warning that names this server."""
        _log.warning("%s: " + text, self._name, *arguments)

    def _send(self, *command: Any) -> Any:
        if self._cluster is not None:
            # A given node: else the cluster's client would send again after a lost answer. It still follows MOVED and
            # ASK, which say that nothing ran.
            node = self._cluster.get_node_from_key(self._key)
            return self._cluster.execute_command(*command, target_nodes=node)
        # Not by execute_command, which sends again as the client's retry policy says. The pool hands out connections
        # that stand: one that the server closed meanwhile is opened anew.
        connection = self._pool.get_connection()
        try:
            connection.send_command(*command)
            return connection.read_response()
        except ResponseError:  # is an answer, and the connection in order
            raise
        except BaseException:
            connection.disconnect()
            raise
        finally:
            self._pool.release(connection)

    def _translated(self, error: Exception) -> StoreError:
        text = str(error) or type(error).__name__
        code = text.partition(" ")[0]
        if code in _ADVICE:
            return StoreUnusable(f"{self._name}: {_ADVICE[code]} ({text})")
        if isinstance(error, _FORBIDDEN):
            return StoreUnusable(
                f"{self._name}: the server refuses this user: {text}. Check user name and password, and that it may use "
                "EVAL, EVALSHA and these keys"
            )
        if isinstance(error, MovedError):
            return StoreUnusable(
                f"{self._name}: this server is a node of a Cluster: RedisStore(redis.cluster.RedisCluster(…)) is expected"
            )
        if "unknown command" in text.lower():
            return StoreUnusable(f"{self._name}: the server is too old: Redis 7 or Valkey is needed ({text})")
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return StoreUnusable(f"{self._name}: the server's certificate is not trusted ({text})")
        if isinstance(error, ResponseError) and not isinstance(error, _PASSING) and code not in _PASSING_CODES:
            return StoreUnusable(f"{self._name}: {text}")
        return StoreUnavailable(f"{self._name}: {text}")


def _own_pool(url: str) -> ConnectionPool:
    """A pool for a URL of redis-py's forms. Nothing is connected yet; what the URL asks for goes before our defaults."""
    try:
        pool = ConnectionPool.from_url(
            url,
            retry=Retry(NoBackoff(), 1),
            socket_connect_timeout=_CONNECT_TIMEOUT,
            socket_timeout=_ANSWER_TIMEOUT,
            health_check_interval=_IDLE,
        )
        pool.connection_class(**pool.connection_kwargs)
    except TypeError as error:
        raise InvalidRequest(
            "client_or_url", f"redis-py knows no option {str(error).rpartition(' ')[2]} for its connections"
        ) from None
    except (ValueError, RedisError) as error:
        # The text of another error might hold part of a password that was not percent-encoded.
        known = str(error) if str(error).startswith("Invalid value for") else "redis-py can't read this URL"
        raise InvalidRequest(
            "client_or_url",
            f"{known}; expected is redis://host:6379/0, rediss://… or unix:///path, with reserved characters "
            "percent-encoded",
        ) from None
    return pool


def _address(pool: Any) -> str:
    """Where a pool connects to, for messages: never with a password."""
    known = pool.connection_kwargs
    database = f"/{known.get('db') or 0}"
    if "path" in known:
        return f"Redis at {known['path']}{database}"
    if "host" in known or type(pool) is ConnectionPool:
        return f"Redis at {known.get('host', 'localhost')}:{known.get('port', 6379)}{database}"
    return "Redis"
