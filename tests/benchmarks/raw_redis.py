"""A store's work with plain redis-py, on hashes like those of `RedisStore`.

A row is only the hash. The sorted sets by which the store finds its jobs are part of its own cost.
"""

from __future__ import annotations

import secrets
import time
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import redis
from attrs import frozen

from backjob.stores.columns import JOB_COLUMNS

__all__ = ["RawRedis"]

_CHUNK: Final = 1000
_SCANNED: Final = 10_000
_TOKEN: Final = "t" * 22
_LEASE: Final = 18_000_000  # µs
_ERASED: Final = tuple([column.name for column in JOB_COLUMNS if column.erased])

# KEYS[1] is the hash of an ended job. ARGV: its id; the number of copies made before; the number of copies to make; the
# highest seq in use; then for each sorted set with the job: the set, the member and the score.
_COPY: Final = """
local pairs_, row = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #pairs_, 2 do row[pairs_[i]] = pairs_[i + 1] end
local id, first, count, last = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local function with(text, new_id)
    local at = string.find(text, id, 1, true)
    return string.sub(text, 1, at - 1) .. new_id .. string.sub(text, at + #id)
end

for n = first, first + count - 1 do
    local new_id = string.sub(redis.sha1hex(KEYS[1] .. n), 1, #id)
    local key, now, set = with(KEYS[1], new_id), {}, {}
    for name, value in pairs(row) do
        if name == 'id' then
            value = new_id
        elseif name == 'seq' then
            value = string.format('%.0f', last + 1 + n)
            now[row.seq] = value
        elseif string.find(name, '_time$') or name == 'deliver_by' then
            value = string.format('%.0f', tonumber(value) - n * 1000000)
            now[row[name]] = value
        end
        set[#set + 1] = name
        set[#set + 1] = value
    end
    redis.call('HSET', key, unpack(set))
    for i = 5, #ARGV, 3 do
        redis.call('ZADD', ARGV[i], now[ARGV[i + 2]], with(ARGV[i + 1], new_id))
    end
end
"""

# ARGV: a cursor, a pattern, the COUNT. Unlinking here avoids sending a million keys to the client.
_UNLINK: Final = """
local page = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
if #page[2] > 0 then redis.call('UNLINK', unpack(page[2])) end
return page[1]
"""


@frozen
class _Ended:
    """An ended job: its hash, and the sorted sets that contain it, with member and score."""

    key: bytes
    id: bytes
    places: list[tuple[bytes, bytes, bytes]]


class RawRedis:
    """The keys with the prefix of a ``redis://`` URL."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._prefix = _prefix(url)
        self._client: Any = redis.Redis(
            host=parts.hostname or "127.0.0.1",
            port=parts.port or 6379,
            db=_database(url),
            username=parts.username,
            password=parts.password,
        )
        self._template: dict[bytes, bytes] = {}

    @property
    def version(self) -> str:
        return f"Redis {self._client.info('server')['redis_version']}"

    def take_template(self, store: str, job_id: str) -> None:
        (key,) = [key for key in self._keys(_prefix(store), "hash") if job_id.encode() in key]
        self._template = self._client.hgetall(key)

    def row(self) -> dict[bytes, bytes]:
        return self._template | {b"id": secrets.token_urlsafe(18).encode()}

    def insert(self, row: dict[bytes, bytes]) -> str:
        job_id = row[b"id"].decode()
        self._client.hset(self._key(job_id), mapping=row)
        return job_id

    def update_twice(self, job_id: str) -> None:
        now = time.time_ns() // 1000
        key = self._key(job_id)
        claim = {
            "version": 2,
            "status": 1,
            "token": _TOKEN,
            "updated_time": now,
            "claimed_time": now,
            "lease_until": now + _LEASE,
        }
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.hset(key, mapping=claim).hdel(key, "waiting_for", "expires").execute()
        end = {"version": 3, "status": 2, "progress": 100, "updated_time": now, "end_time": now}
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.hset(key, mapping=end).hdel(key, *_ERASED).execute()

    def report(self, job_id: str, progress: int, text: str, output: bytes, start: int) -> None:
        key = self._key(job_id)
        now = time.time_ns() // 1000
        changed = {
            "version": start + 2,
            "updated_time": now,
            "progress": progress,
            "status_text": text,
            "output_size": (start + 1) * len(output),
        }
        if not output:
            self._client.hset(key, mapping=changed)
            return
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.hset(key, mapping=changed).append(f"{key}:output", output).execute()

    def select(self, job_id: str) -> object:
        return self._client.hgetall(self._key(job_id))

    def fill(self, ended: int) -> None:
        copy = self._client.register_script(_COPY)
        templates = self._ended()
        last = max(int(self._client.hget(template.key, "seq")) for template in templates)
        for first in range(0, ended, _CHUNK):
            template = templates[first // _CHUNK % len(templates)]
            places = [part for place in template.places for part in place]
            copy([template.key], [template.id, first, min(_CHUNK, ended - first), last, *places])
        for key in self._keys(self._prefix, "string"):
            if self._client.get(key) == b"%d" % last:  # the counter of jobs
                self._client.incrby(key, ended)

    def drop(self) -> None:
        """Remove every key with the prefix."""
        unlink = self._client.register_script(_UNLINK)
        cursor = b"0"
        while (cursor := unlink([], [cursor, f"*{self._prefix}*", _CHUNK])) != b"0":
            pass

    def close(self) -> None:
        self._client.close()

    def _key(self, job_id: str) -> str:
        return f"{self._prefix}:{job_id}"

    def _keys(self, prefix: str, kind: str) -> list[bytes]:
        return list(self._client.scan_iter(match=f"*{prefix}*", count=_SCANNED, _type=kind))

    def _ended(self) -> list[_Ended]:
        found: list[_Ended] = []
        sets = {key: self._client.zrange(key, 0, -1, withscores=True) for key in self._keys(self._prefix, "zset")}
        for key in self._keys(self._prefix, "hash"):
            job_id, end_time = self._client.hmget(key, "id", "end_time")
            if end_time is None:
                continue
            places = [
                (name, member, b"%d" % score)
                for name, members in sets.items()
                for member, score in members
                if job_id in member
            ]
            found.append(_Ended(key, job_id, places))
        return found


def _prefix(url: str) -> str:
    return dict(parse_qsl(urlsplit(url).query))["prefix"]


def _database(url: str) -> int:
    return int(urlsplit(url).path[1:] or 0)
