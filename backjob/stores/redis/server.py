"""Sends scripts to the Redis server, each once, and translates the driver's exceptions."""

from __future__ import annotations

from typing import Any, Final

from backjob.errors import InvalidRequest, MissingExtra, StoreError, StoreUnavailable, StoreUnusable
from backjob.stores.redis.lua import LAYOUT, OVER_LAYOUT, Script

try:
    from redis import ConnectionPool, Redis, exceptions
    from redis.backoff import NoBackoff
    from redis.cluster import RedisCluster
    from redis.retry import Retry
except ImportError as missing:
    raise MissingExtra("RedisStore", "redis") from missing

__all__ = ["Redis", "RedisCluster", "Server"]

_CONNECT_TIMEOUT: Final = 5.0  # s
_READ_TIMEOUT: Final = 10.0  # s: a script takes milliseconds, a busy or swapping server longer
_APART_TIMEOUT: Final = 5.0  # s: a connection that is lost without notice must not cost a run its lease
_TRUSTED_IDLE: Final = 30  # s: a connection that was idle for longer is pinged before it is used

_FORBIDDEN: Final = (
    exceptions.AuthenticationError,
    exceptions.AuthenticationWrongNumberOfArgsError,
    exceptions.AuthorizationError,
    exceptions.NoPermissionError,
)
_PASSING: Final = (
    exceptions.AskError,
    exceptions.ClusterDownError,
    exceptions.OutOfMemoryError,
    exceptions.ReadOnlyError,
    exceptions.TryAgainError,
)
_PASSING_CODES: Final = ("BUSY", "MISCONF", "NOREPLICAS", "UNKILLABLE")
_ADVICE: Final = {
    OVER_LAYOUT: f"another version of backjob stores jobs here, in another layout than {LAYOUT}; choose another prefix",
    "WRONGTYPE": "other software uses keys with this prefix; choose another prefix",
}


class Server:
    """The server or Cluster of a client or a URL, for any thread, and in forked children.

    Each script is sent once. If an answer is lost, the script may have run, and a report that runs twice appends its
    output twice. Only connecting, and pinging an idle connection, are retried.
    """

    def __init__(self, client_or_url: str | Redis | RedisCluster, key: str) -> None:
        self._key = key.encode()
        """The KEYS[1] of every script; all keys are in its slot."""
        # Any, because redis-py's methods are only partly annotated.
        self._cluster: Any = client_or_url if isinstance(client_or_url, RedisCluster) else None
        self._owned = isinstance(client_or_url, str)
        self._pool: Any = None
        self._apart: Any = None
        """The pool for calls on a separate connection, once there is one."""
        if isinstance(client_or_url, str):
            self._pool = _own_pool(client_or_url)
        elif isinstance(client_or_url, Redis):
            self._pool = client_or_url.connection_pool
        elif self._cluster is None:
            raise InvalidRequest(
                "client_or_url", "must be a URL or a client of redis-py: redis.Redis or redis.cluster.RedisCluster"
            )
        encoder = (self._cluster or self._pool).get_encoder()
        if encoder.decode_responses:
            raise InvalidRequest(
                "client_or_url",
                "jobs contain bytes that are not text; pass a client with decode_responses=False, its default (two "
                "clients may use one server)",
            )
        self._name = f"{'Redis Cluster' if self._cluster else _address(self._pool)}, keys {key}:*"

    def run(self, script: Script, *arguments: Any, apart: bool = False) -> Any:
        """Run a script and return its result. Raises `StoreUnavailable` or `StoreUnusable`.

        ``apart``: on a connection that no other call uses. In a Cluster, on one of the client's, which makes as many as needed.
        """
        send = self._send_apart if apart and self._cluster is None else self._send
        try:
            try:
                return send("EVALSHA", script.digest, 1, self._key, *arguments)
            except exceptions.NoScriptError:  # nothing has run: the server has restarted, or its scripts were flushed
                return send("EVAL", script.source, 1, self._key, *arguments)
        except (exceptions.RedisError, exceptions.RedisClusterException, exceptions.ChildDeadlockedError) as error:
            raise self._translated(error) from error

    def close(self) -> None:
        """Close the idle connections, unless they are those of the application's client."""
        if self._owned:
            self._pool.disconnect(inuse_connections=False)
        if self._apart is not None:
            self._apart.disconnect(inuse_connections=False)

    def _send_apart(self, *command: Any) -> Any:
        if self._apart is None:
            self._apart = _pool_apart(self._pool)
        return self._send_by(self._apart, *command)

    def _send(self, *command: Any) -> Any:
        if self._cluster is not None:
            # With target_nodes the client does not resend after a lost answer. It still follows MOVED and ASK, after
            # which nothing has run.
            node = self._cluster.get_node_from_key(self._key)
            return self._cluster.execute_command(*command, target_nodes=node)
        return self._send_by(self._pool, *command)

    def _send_by(self, pool: Any, *command: Any) -> Any:
        # Not by execute_command(), which resends according to the client's retry policy. The pool reconnects a connection
        # that the server has closed.
        connection = pool.get_connection()
        try:
            connection.send_command(*command)
            return connection.read_response()
        except exceptions.ResponseError:  # an answer: the connection can be used again
            raise
        except BaseException:
            connection.disconnect()
            raise
        finally:
            pool.release(connection)

    def _translated(self, error: Exception) -> StoreError:
        text = str(error) or type(error).__name__
        code = text.partition(" ")[0]
        if code in _ADVICE:
            return StoreUnusable(f"{self._name}: {_ADVICE[code]} ({text})")
        if isinstance(error, _FORBIDDEN):
            return StoreUnusable(
                f"{self._name}: the server refuses this user: {text}. Check the user's name, its password, and its rights "
                "to EVAL, EVALSHA and these keys"
            )
        if isinstance(error, exceptions.MovedError):
            return StoreUnusable(
                f"{self._name}: this server is a node of a Cluster: use RedisStore(redis.cluster.RedisCluster(…))"
            )
        if "unknown command" in text.lower():
            return StoreUnusable(f"{self._name}: the server is too old; use Redis 7 or Valkey ({text})")
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return StoreUnusable(f"{self._name}: the server's certificate is not trusted ({text})")
        if (
            isinstance(error, exceptions.ResponseError)
            and not isinstance(error, _PASSING)
            and code not in _PASSING_CODES
        ):
            return StoreUnusable(f"{self._name}: {text}")
        return StoreUnavailable(f"{self._name}: {text}")


def _own_pool(url: str) -> ConnectionPool:
    """A pool for a URL in one of redis-py's forms, not connected yet. The URL's options override the defaults here."""
    try:
        pool = ConnectionPool.from_url(
            url,
            retry=Retry(NoBackoff(), 1),
            socket_connect_timeout=_CONNECT_TIMEOUT,
            socket_timeout=_READ_TIMEOUT,
            health_check_interval=_TRUSTED_IDLE,
        )
        pool.connection_class(**pool.connection_kwargs)
    except TypeError as error:
        raise InvalidRequest(
            "client_or_url", f"redis-py has no connection option {str(error).rpartition(' ')[2]}"
        ) from None
    except (ValueError, exceptions.RedisError) as error:
        # Other messages may contain part of a password that was not percent-encoded.
        known = str(error) if str(error).startswith("Invalid value for") else "redis-py can't read this URL"
        raise InvalidRequest(
            "client_or_url",
            f"{known}; use redis://host:6379/0, rediss://… or unix:///path, with reserved characters percent-encoded",
        ) from None
    return pool


def _pool_apart(pool: Any) -> ConnectionPool:
    """Another pool of the same connections: the application may have limited its own, or keep each connection for a long time."""
    options = dict(pool.connection_kwargs)
    options["socket_timeout"] = min(_APART_TIMEOUT, options.get("socket_timeout") or _APART_TIMEOUT)
    return ConnectionPool(pool.connection_class, **options)


def _address(pool: Any) -> str:
    """The address of a pool for messages, without the password."""
    options = pool.connection_kwargs
    database = f"/{options.get('db') or 0}"
    if "path" in options:
        return f"Redis at {options['path']}{database}"
    if "host" in options or type(pool) is ConnectionPool:
        return f"Redis at {options.get('host', 'localhost')}:{options.get('port', 6379)}{database}"
    return "Redis"
