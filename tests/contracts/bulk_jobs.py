"""Many copies of an ended job and its output, made by the database itself; one by one takes minutes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import redis

from tests.services import REDIS
from tests.shared_stores import mariadb, postgres

__all__ = ["copy_id", "copy_job"]

_NUMBERS: Final = {
    "postgresql": "generate_series(1, {count}) AS numbers (n)",
    "mariadb": "(SELECT seq AS n FROM seq_1_to_{count}) AS numbers",
    "sqlite": "(WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {count}) SELECT n FROM c)",
}

# KEYS: the job, its output. ARGV: its id, the first and last number, then of each sorted set its key, member and score.
_COPY: Final = """
local function with(text, id)
    local at = string.find(text, ARGV[1], 1, true)
    return string.sub(text, 1, at - 1) .. id .. string.sub(text, at + #id)
end
for n = tonumber(ARGV[2]), tonumber(ARGV[3]) do
    local id = string.format('%s%06d', string.sub(ARGV[1], 1, -7), n)
    for _, key in ipairs(KEYS) do redis.call('COPY', key, with(key, id)) end
    redis.call('HSET', with(KEYS[1], id), 'id', id)
    for i = 4, #ARGV, 3 do redis.call('ZADD', ARGV[i], ARGV[i + 2], with(ARGV[i + 1], id)) end
end
"""
_COPIED_AT_ONCE: Final = 1000


def copy_id(job_id: str, number: int) -> str:
    """The id of a copy: the last six characters are its number."""
    return f"{job_id[:-6]}{number:06}"


def copy_job(url: str, job_id: str, count: int) -> None:
    """Copy an ended job of the store at this URL, numbered from 1. Its id must end in six digits."""
    scheme = urlsplit(url).scheme.partition("+")[0]
    if scheme == "redis":
        _copy_in_redis(url, job_id, count)
    else:
        _copy_in_tables(scheme, url, job_id, count)


def _copy_in_tables(kind: str, url: str, job_id: str, count: int) -> None:
    options = dict(parse_qsl(urlsplit(url).query))
    table = options.get("table_name", "backjob")
    if "schema" in options:
        table = f"{options['schema']}.{table}"
    new_id = f"concat('{job_id[:-6]}', lpad(CAST(n AS CHAR(6)), 6, '0'))"
    if kind == "sqlite":
        new_id = f"'{job_id[:-6]}' || printf('%06d', n)"
    columns = _columns(kind, url, table)
    quoted = [f"`{name}`" if kind == "mariadb" else f'"{name}"' for name in columns]  # "cursor" is a word of SQL
    values = ", ".join([new_id if name == "id" else quote for name, quote in zip(columns, quoted, strict=True)])
    numbers = _NUMBERS[kind].format(count=count)
    names = ", ".join(quoted)
    _execute(
        kind,
        url,
        f"INSERT INTO {table} ({names}) SELECT {values} FROM {table} AS job CROSS JOIN {numbers} WHERE id = '{job_id}'",
        f"INSERT INTO {table}_output (job, start, piece) "
        f"SELECT copied.seq, start, piece FROM {table} AS job JOIN {table}_output AS output ON output.job = job.seq "
        f"CROSS JOIN {table} AS copied WHERE job.id = '{job_id}' AND copied.id LIKE '{job_id[:-6]}%' "
        f"AND copied.id <> '{job_id}'",
    )


def _columns(kind: str, url: str, table: str) -> list[str]:
    if kind == "sqlite":
        rows = _execute(kind, url, f"SELECT name FROM pragma_table_info('{table}')")
    else:
        schema, _, name = table.rpartition(".")
        where = f" AND table_schema = '{schema}'" if schema else ""
        query = f"SELECT column_name FROM information_schema.columns WHERE table_name = '{name}'{where}"
        rows = _execute(kind, url, query)
    return [name for (name,) in rows if name != "seq"]


def _execute(kind: str, url: str, *statements: str) -> list[Any]:
    rows: list[Any] = []
    if kind == "sqlite":
        path = unquote(urlsplit(url).path)[1:]
        with closing(sqlite3.connect(path, timeout=60)) as connection, connection:
            connection.execute("PRAGMA synchronous = OFF")
            for statement in statements:
                rows = connection.execute(statement).fetchall()
    else:
        for statement in statements:
            rows = {"postgresql": postgres, "mariadb": mariadb}[kind](statement)
    return rows


def _copy_in_redis(url: str, job_id: str, count: int) -> None:
    prefix = dict(parse_qsl(urlsplit(url).query))["prefix"]
    wanted = job_id.encode()
    with closing(redis.Redis.from_url(REDIS.url)) as client:
        keys = list(client.scan_iter(match=f"*{prefix}*", count=10_000))
        own = sorted([key for key in keys if wanted in key], key=lambda key: client.type(key) != b"hash")
        places: list[bytes] = []
        for key in keys:
            if client.type(key) == b"zset":
                members: Any = client.zrange(key, 0, -1, withscores=True)
                for member, score in members:
                    if wanted in member:
                        places += [key, member, b"%d" % score]
        copy = client.register_script(_COPY)
        for first in range(1, count + 1, _COPIED_AT_ONCE):
            last = min(first + _COPIED_AT_ONCE - 1, count)
            copy(own, [wanted, first, last, *places])
