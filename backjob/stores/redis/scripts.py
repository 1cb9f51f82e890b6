"""The Lua scripts of the Redis store. Each is one atomic step over a job and its entries in the indexes.

A job is a hash, and its output a string. The indexes are sorted sets: by status, scope and owner in the order of
creation, living jobs by start time, lease and time limit, ended jobs by end time. KEYS[1] is the prefix of all keys; its
hash tag puts them into one slot. ARGV[1] and ARGV[2] are the store's now in seconds and microseconds, or empty for the
server's. The arguments of a script follow from ARGV[3] on.
"""

from __future__ import annotations

import hashlib
from typing import Final

from attrs import frozen

__all__ = [
    "BEAT",
    "CHANGE",
    "CREATE",
    "DUE",
    "FIND",
    "GET",
    "LAYOUT",
    "MEMORY",
    "OUTPUT",
    "OVERDUE",
    "OVER_LAYOUT",
    "PURGE",
    "REPORT",
    "Script",
]


@frozen
class Script:
    """A Lua script, and the digest by which a server finds it again."""

    source: bytes
    digest: str

    @classmethod
    def of(cls, source: str) -> Script:
        encoded = source.encode()
        return cls(encoded, hashlib.sha1(encoded, usedforsecurity=False).hexdigest())


LAYOUT: Final = 1
"""The number of the layout that these scripts write, stored under the key ``…:layout``."""

OVER_LAYOUT: Final = "BACKJOBLAYOUT"
"""The code of the error that the scripts return if the keys have another layout."""

_BEGIN: Final = f"""
local call, fmt = redis.call, string.format
local root = KEYS[1] .. ':'
local layout, this_layout = call('GET', root .. 'layout'), '{LAYOUT}'
if layout and layout ~= this_layout then return redis.error_reply('{OVER_LAYOUT} ' .. layout) end
local now_s, now_us = tonumber(ARGV[1]), tonumber(ARGV[2])
if not now_s then
    local time = call('TIME')
    now_s, now_us = tonumber(time[1]), tonumber(time[2])
end

-- Moments are decimal microseconds. A double is exact for them until 2255, but its default format is not.
local function moment(s, us)
    if s <= 0 then return fmt('%.0f', s * 1000000 + us) end
    return fmt('%.0f%06.0f', s, us)
end
local now, now_number = moment(now_s, now_us), now_s * 1000000 + now_us
local function after(seconds, micros)
    if seconds == 0 and micros == 0 then return now end
    local s, us = now_s + seconds, now_us + micros
    if us >= 1000000 then s, us = s + 1, us - 1000000 end
    return moment(s, us)
end
"""

_JOBS: Final = """
local function job_key(id) return root .. 'job:' .. id end
local function output_key(id) return root .. 'output:' .. id end

local function read(id)
    local columns, row = call('HGETALL', job_key(id)), {}
    if #columns == 0 then return nil end
    for i = 1, #columns, 2 do row[columns[i]] = columns[i + 1] end
    return row
end

-- A row in an answer: JSON of its texts, and the columns of bytes. A client parses this faster than many small values.
local function reply(row)
    local sealed, body = row.sealed or false, row.body or false
    row.sealed, row.body = nil, nil
    return {cjson.encode(row), sealed, body}
end

-- Members of the sets of living jobs: at the same score, Redis keeps them in the order of creation.
local function entry(seq, id) return fmt('%016.0f', seq) .. id end
local function entry_id(member) return string.sub(member, 17) end
local function silent_at(updated_time, error_timeout) return fmt('%.0f', updated_time + error_timeout) end

-- The entries of a job that depend on its state: set -> member and score.
local function entries(row)
    local found, member = {}, entry(row.seq, row.id)
    found['status:' .. row.status] = {row.id, row.seq}
    if row.status == '0' then
        if row.lease_until then
            found.leased = {member, row.lease_until}
        else
            found.waiting = {member, row.start_time}
        end
        found.limits = {member, row.deliver_by}
    elseif row.status == '1' then
        found.limits = {member, silent_at(row.updated_time, row.error_timeout)}
    elseif row.end_time then
        -- With scope and owner, so that a purge removes the other entries even if the hash was evicted.
        found['ended:' .. row.status] = {cmsgpack.pack({row.id, row.scope, row.owner or false}), row.end_time}
    end
    return found
end

local function update_entries(before, present)
    -- The row keeps a lease that has ended, but DUE may have moved its entry to the waiting jobs.
    local leased = before.leased
    if leased then call('ZREM', root .. 'waiting', leased[1]) end
    for set, place in pairs(before) do
        if not present[set] then call('ZREM', root .. set, place[1]) end
    end
    for set, place in pairs(present) do
        if leased or not before[set] or before[set][2] ~= place[2] then call('ZADD', root .. set, place[2], place[1]) end
    end
end

local function write(id, row)
    local columns = {}
    for name, value in pairs(row) do
        columns[#columns + 1] = name
        columns[#columns + 1] = value
    end
    call('HSET', job_key(id), unpack(columns))
end
"""


def _script(*parts: str) -> Script:
    return Script.of("".join((_BEGIN, _JOBS, *parts)))


_ASSIGNED: Final = """
-- The assignments in ARGV[i]: {"set": column -> value, "after": column -> seconds and microseconds from now, "erased":
-- columns}. Each column of bytes follows with its value.
local function assigned(i)
    local given = cjson.decode(ARGV[i])
    for name, offset in pairs(given.after) do given.set[name] = after(offset[1], offset[2]) end
    for k = i + 1, #ARGV, 2 do given.set[ARGV[k]] = ARGV[k + 1] end
    return given.set, given.erased
end
"""

_RUNNING: Final = """
-- Write columns and output of a running job, and that it is alive now. Returns 1, or 0 if the token is not its own.
local function report(id, token, set, output)
    local row = call('HMGET', job_key(id), 'status', 'token', 'version', 'seq', 'error_timeout')
    if row[1] ~= '1' or row[2] ~= token then return 0 end
    if output ~= '' then set.output_size = fmt('%.0f', call('APPEND', output_key(id), output)) end
    set.version, set.updated_time = fmt('%.0f', row[3] + 1), now
    write(id, set)
    call('ZADD', root .. 'limits', silent_at(now_number, row[5]), entry(row[4], id))
    return 1
end
"""

GET: Final = _script("""
local row = read(ARGV[3])
return {now, row and reply(row) or false}
""")
"""id → now; the row or nil."""

OUTPUT: Final = _script("""
return {call('HGET', job_key(ARGV[3]), 'output_truncated'), call('GETRANGE', output_key(ARGV[3]), ARGV[4], ARGV[5])}
""")
"""id, first byte, last byte → output_truncated or nil; bytes."""

CREATE: Final = _script(
    _ASSIGNED,
    """
local id, merging, merge_key = ARGV[3], ARGV[4] == '1', ARGV[5]
if merging then
    local holder = call('HGET', root .. 'merge', merge_key)
    local row = holder and read(holder)
    if row then return {now, 'merged', reply(row)} end
end
if call('EXISTS', job_key(id)) == 1 then return {now, 'exists', false} end
if not layout then call('SET', root .. 'layout', this_layout) end
local row = assigned(6)
row.seq = fmt('%.0f', call('INCR', root .. 'sequence'))
write(id, row)
update_entries({}, entries(row))
call('ZADD', root .. 'scope:' .. row.scope, row.seq, id)
if row.owner then call('ZADD', root .. 'owner:' .. row.owner, row.seq, id) end
if merging then call('HSET', root .. 'merge', merge_key, id) end
return {now, 'created', false}
""",
)
"""id, 1 if merging, merge key, assignments → now; ``created``, ``merged`` or ``exists``; the row of the job merged with."""

CHANGE: Final = _script(
    _ASSIGNED,
    """
local id, row = ARGV[3], read(ARGV[3])
if not row then return {now, false} end
for name, value in pairs(cjson.decode(ARGV[4])) do
    if row[name] ~= value then return {now, false} end
end
local set, erased = assigned(5)
local before, ended, merge_key = entries(row), row.end_time, row.merge_key
set.version = fmt('%.0f', row.version + 1)
for name, value in pairs(set) do row[name] = value end
for _, name in ipairs(erased) do row[name] = nil end
update_entries(before, entries(row))
if merge_key and not row.merge_key then call('HDEL', root .. 'merge', merge_key) end
if row.end_time and not ended then
    -- Written again from scratch: a hash that never had long values takes a third of the memory.
    call('DEL', job_key(id))
    write(id, row)
else
    write(id, set)
    if #erased > 0 then call('HDEL', job_key(id), unpack(erased)) end
end
return {now, reply(row)}
""",
)
"""id, JSON of column → expected value, assignments → now; the changed row or nil."""

REPORT: Final = _script(
    _RUNNING,
    """
local progress, text, set = ARGV[5], ARGV[6], {}
if progress ~= '' then set.progress = progress end
if text ~= '' then set.status_text = string.sub(text, 2) end
if ARGV[8] == '1' then set.output_truncated = '1' end
return report(ARGV[3], ARGV[4], set, ARGV[7])
""",
)
"""id, token, progress or empty, "=" and text or empty, output, 1 if truncated → 1 if it was written."""

BEAT: Final = _script(
    _RUNNING,
    """
for i = 3, #ARGV, 2 do report(ARGV[i], ARGV[i + 1], {}, '') end
return 1
""",
)
"""ids and tokens → 1."""

DUE: Final = _script("""
local waiting, leased = root .. 'waiting', root .. 'leased'
for _, member in ipairs(call('ZRANGEBYSCORE', leased, '-inf', now, 'LIMIT', 0, 1000)) do
    local start_time = call('HGET', job_key(entry_id(member)), 'start_time')
    call('ZREM', leased, member)
    if start_time then call('ZADD', waiting, start_time, member) end
end
local found = {now}
local until_ = after(tonumber(ARGV[4]), tonumber(ARGV[5]))
for _, member in ipairs(call('ZRANGEBYSCORE', waiting, '-inf', now, 'LIMIT', 0, ARGV[6])) do
    local id = entry_id(member)
    local version = call('HGET', job_key(id), 'version')
    call('ZREM', waiting, member)
    if version then
        call('ZADD', leased, until_, member)
        call('HSET', job_key(id), 'lessee', ARGV[3], 'lease_until', until_, 'version', fmt('%.0f', version + 1))
        found[#found + 1] = reply(read(id))
    end
end
return found
""")
"""lessee, lease in seconds and microseconds, limit → now; each row."""

_SEARCH: Final = """
local limit, below = tonumber(ARGV[6]), ARGV[8]
if ARGV[7] ~= '' then
    below = call('HGET', job_key(string.sub(ARGV[7], 2)), 'seq')
    if not below then return {now, ''} end
end

-- The row of a job for the answer, or nil unless it matches ARGV[3], [4] and [5]: "=" and a scope, status and owner, or
-- empty.
local function matching(id)
    local found = call('HMGET', job_key(id), 'scope', 'status', 'owner')
    if not found[1] then return nil end
    for i = 1, 3 do
        local wanted = ARGV[2 + i]
        if wanted ~= '' and string.sub(wanted, 2) ~= found[i] then return nil end
    end
    return reply(read(id))
end
"""

FIND: Final = _script(
    _SEARCH,
    """
-- Search the smallest set that contains all matching jobs. Without a condition, all sets by status together do.
local sets, size = nil, nil
for i, kind in ipairs({'scope:', 'status:', 'owner:'}) do
    if ARGV[2 + i] ~= '' then
        local set = root .. kind .. string.sub(ARGV[2 + i], 2)
        local count = call('ZCARD', set)
        if not size or count < size then sets, size = {set}, count end
    end
end
if not sets then
    sets = {}
    for status = 0, 4 do sets[#sets + 1] = root .. 'status:' .. status end
end

local found, steps = {now, ''}, tonumber(ARGV[9])
while true do
    local chunk = {}
    local count = math.min(steps, math.max(limit, 50))
    for _, set in ipairs(sets) do
        local part = call('ZREVRANGEBYSCORE', set, below == '' and '+inf' or '(' .. below, '-inf', 'WITHSCORES',
            'LIMIT', 0, count)
        for i = 1, #part, 2 do chunk[#chunk + 1] = {part[i], tonumber(part[i + 1])} end
    end
    table.sort(chunk, function(a, b) return a[2] > b[2] end)
    for i = 1, math.min(count, #chunk) do
        local row = matching(chunk[i][1])
        if row then
            found[#found + 1] = row
            if #found == limit + 2 then return found end
        end
        below = fmt('%.0f', chunk[i][2])
    end
    steps = steps - count
    if #chunk == 0 then return found end
    if steps <= 0 then
        found[2] = below
        return found
    end
end
""",
)
"""scope, status, owner, limit (at least 1), "=" and the id before or empty, position or empty, how many jobs to examine →
now; the position to continue from or empty; each row."""

OVERDUE: Final = _script(
    _SEARCH,
    """
local members = call('ZRANGEBYSCORE', root .. 'limits', '-inf', now)
table.sort(members, function(a, b) return a > b end)
local found = {now, ''}
for _, member in ipairs(members) do
    local row = (below == '' or tonumber(string.sub(member, 1, 16)) < tonumber(below)) and matching(entry_id(member))
    if row then
        found[#found + 1] = row
        if #found == limit + 2 then return found end
    end
end
return found
""",
)
"""As `FIND`, for the jobs past their time limit. There are few of them, so one call examines them all."""

PURGE: Final = _script("""
local set, removed = root .. 'ended:' .. ARGV[3], 0, 0
local ended_before = '(' .. after(tonumber(ARGV[4]), tonumber(ARGV[5]))
local members = call('ZRANGEBYSCORE', set, '-inf', ended_before, 'LIMIT', 0, ARGV[6])
for _, member in ipairs(members) do
    local id, scope, owner = unpack(cmsgpack.unpack(member))
    removed = removed + call('UNLINK', job_key(id))
    call('UNLINK', output_key(id))
    call('ZREM', set, member)
    call('ZREM', root .. 'status:' .. ARGV[3], id)
    call('ZREM', root .. 'scope:' .. scope, id)
    if owner then call('ZREM', root .. 'owner:' .. owner, id) end
end
return {#members, removed}
""")
"""status, minus the age in seconds and microseconds, limit → number of entries removed; number of jobs removed."""

MEMORY: Final = Script.of("return redis.call('INFO', 'memory')")
"""→ the section "memory" of the server's INFO."""
