"""The Lua scripts of the Redis store: each is one atomic step over a job and all that points to it.

A job is a hash; its output is a string beside it. Ways to find jobs are sorted sets: by status, scope and owner in the
order of creation, the living ones by the moments that concern them, the ended ones by their end. KEYS[1] is what all
keys begin with; its hash tag keeps them in one slot. ARGV[1] and ARGV[2] are the store's now, in seconds and
microseconds, or empty for the server's own. What a script is given besides follows from ARGV[3] on.
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
    "RETENTION",
    "SWEEP",
    "Script",
]


@frozen
class Script:
    """A Lua script, and the digest that a server knows it by."""

    source: bytes
    digest: str

    @classmethod
    def of(cls, source: str) -> Script:
        encoded = source.encode()
        return cls(encoded, hashlib.sha1(encoded, usedforsecurity=False).hexdigest())


LAYOUT: Final = 1
"""The number of the layout that these scripts write; the key ``…:layout`` says which one stands."""

OVER_LAYOUT: Final = "BACKJOBLAYOUT"
"""What an error begins with that says: another layout stands here."""

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

-- Moments are microseconds, written in full: a double holds them exactly until 2255, and its text never does.
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

-- A row as it is returned: JSON of its texts, and what may be no text. A client parses this far faster than a reply of
-- many parts.
local function reply(row)
    local sealed, body = row.sealed or false, row.body or false
    row.sealed, row.body = nil, nil
    return {cjson.encode(row), sealed, body}
end

-- In the sets of the living, members of one score stand in the order of their creation.
local function entry(seq, id) return fmt('%016.0f', seq) .. id end
local function entry_id(member) return string.sub(member, 17) end
local function silent_at(updated_time, error_timeout) return fmt('%.0f', updated_time + error_timeout) end

-- Where a job is found by its state: the set -> its member there, and the score.
local function places(row)
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
        -- Scope and owner too: an expired job leaves nothing else that would tell where it was entered.
        found['ended:' .. row.status] = {cmsgpack.pack({row.id, row.scope, row.owner or false}), row.end_time}
    end
    return found
end

local function enter(before, present)
    -- A lease that is over still stands in the row, but its job may have been put among the waiting since.
    local leased = before.leased
    if leased then call('ZREM', root .. 'waiting', leased[1]) end
    for set, place in pairs(before) do
        if not present[set] then call('ZREM', root .. set, place[1]) end
    end
    for set, place in pairs(present) do
        if leased or not before[set] or before[set][2] ~= place[2] then call('ZADD', root .. set, place[2], place[1]) end
    end
end

-- The safety net where nobody purges: milliseconds until a job that ended goes by itself, or nil.
local function left(status, end_time, ages)
    local age = tonumber(ages[2] or 0)
    local shorter = tonumber(ages[1] or 0)
    if status == '2' and shorter > 0 and (age == 0 or shorter < age) then age = shorter end
    if age == 0 then return nil end
    return fmt('%.0f', math.max(1, math.ceil((end_time + age - now_number) / 1000) + tonumber(ages[3])))
end
"""

_HEAD: Final = _BEGIN + _JOBS

_ASSIGNED: Final = """
-- What ARGV[i] assigns: {"set": column -> value, "after": column -> seconds and microseconds from now, "erased": columns}.
-- Columns that may be no text follow, each with its value.
local function assigned(i)
    local given = cjson.decode(ARGV[i])
    for name, offset in pairs(given.after) do given.set[name] = after(offset[1], offset[2]) end
    for k = i + 1, #ARGV, 2 do given.set[ARGV[k]] = ARGV[k + 1] end
    return given.set, given.erased
end

local function write(key, row)
    local columns = {}
    for name, value in pairs(row) do
        columns[#columns + 1] = name
        columns[#columns + 1] = value
    end
    call('HSET', key, unpack(columns))
end
"""

GET: Final = Script.of(
    _HEAD
    + """
local row = read(ARGV[3])
return {now, row and reply(row) or false}
"""
)
"""id → now, the row or nil."""

OUTPUT: Final = Script.of(
    _HEAD
    + """
return {call('HGET', job_key(ARGV[3]), 'output_truncated'), call('GETRANGE', output_key(ARGV[3]), ARGV[4], ARGV[5])}
"""
)
"""id, first byte, last byte → the mark of truncation or nil, bytes."""

CREATE: Final = Script.of(
    _HEAD
    + _ASSIGNED
    + """
local id, merging, merge_key = ARGV[3], ARGV[4] == '1', ARGV[5]
if merging then
    local holder = call('HGET', root .. 'merge', merge_key)
    local row = holder and read(holder)
    if row then return {now, 'held', reply(row)} end
end
if call('EXISTS', job_key(id)) == 1 then return {now, 'exists', false} end
if not layout then call('SET', root .. 'layout', this_layout) end
local row = assigned(6)
row.seq = fmt('%.0f', call('INCR', root .. 'sequence'))
write(job_key(id), row)
enter({}, places(row))
call('ZADD', root .. 'scope:' .. row.scope, row.seq, id)
if row.owner then call('ZADD', root .. 'owner:' .. row.owner, row.seq, id) end
if merging then call('HSET', root .. 'merge', merge_key, id) end
return {now, 'made', false}
"""
)
"""id, 1 if merging, merge key, assignments → now, ``made``, ``held`` or ``exists``, the holder's row."""

CHANGE: Final = Script.of(
    _HEAD
    + _ASSIGNED
    + """
local key, row = job_key(ARGV[3]), read(ARGV[3])
if not row then return {now, false} end
for name, value in pairs(cjson.decode(ARGV[4])) do
    if row[name] ~= value then return {now, false} end
end
local set, erased = assigned(5)
local before, ended, merge_key = places(row), row.end_time, row.merge_key
set.version = fmt('%.0f', row.version + 1)
for name, value in pairs(set) do row[name] = value end
for _, name in ipairs(erased) do row[name] = nil end
enter(before, places(row))
if merge_key and not row.merge_key then call('HDEL', root .. 'merge', merge_key) end
if row.end_time and not ended then
    -- Written anew: what is left is mostly short, and a hash that never held more takes a third of the memory.
    call('DEL', key)
    write(key, row)
    local expiry = left(row.status, tonumber(row.end_time), call('HMGET', root .. 'ages', 'completed', 'ended', 'slack'))
    if expiry then
        call('PEXPIRE', key, expiry)
        call('PEXPIRE', output_key(ARGV[3]), expiry)
    end
else
    write(key, set)
    if #erased > 0 then call('HDEL', key, unpack(erased)) end
end
return {now, reply(row)}
"""
)
"""id, JSON of column → expected value, assignments → now, the row after the change or nil."""

REPORT: Final = Script.of(
    _HEAD
    + """
local id, token, progress, text, output = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local key = job_key(id)
local row = call('HMGET', key, 'status', 'token', 'version', 'seq', 'error_timeout')
if row[1] ~= '1' or row[2] ~= token then return 0 end
local set = {'version', fmt('%.0f', row[3] + 1), 'updated_time', now}
if progress ~= '' then
    set[#set + 1] = 'progress'
    set[#set + 1] = progress
end
if text ~= '' then
    set[#set + 1] = 'status_text'
    set[#set + 1] = string.sub(text, 2)
end
if ARGV[8] == '1' then
    set[#set + 1] = 'output_truncated'
    set[#set + 1] = '1'
end
if output ~= '' then
    set[#set + 1] = 'output_size'
    set[#set + 1] = fmt('%.0f', call('APPEND', output_key(id), output))
end
call('HSET', key, unpack(set))
call('ZADD', root .. 'limits', silent_at(now_number, row[5]), entry(row[4], id))
return 1
"""
)
"""id, token, progress or empty, "=" and text or empty, output, 1 if truncated → 1 if it was written."""

BEAT: Final = Script.of(
    _HEAD
    + """
for i = 3, #ARGV, 2 do
    local key = job_key(ARGV[i])
    local row = call('HMGET', key, 'status', 'token', 'version', 'seq', 'error_timeout')
    if row[1] == '1' and row[2] == ARGV[i + 1] then
        call('HSET', key, 'updated_time', now, 'version', fmt('%.0f', row[3] + 1))
        call('ZADD', root .. 'limits', silent_at(now_number, row[5]), entry(row[4], ARGV[i]))
    end
end
return 1
"""
)
"""ids and tokens → 1."""

DUE: Final = Script.of(
    _HEAD
    + """
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
"""
)
"""lessee, lease in seconds and microseconds, limit → now, each row."""

_MATCHING: Final = """
-- A job's row, to be returned, if it is there and matches: ARGV[3], [4] and [5] are "=" and the scope, status and owner
-- that are asked for, or empty.
local function matching(id)
    local found = call('HMGET', job_key(id), 'scope', 'status', 'owner')
    if not found[1] then return nil end
    for i = 1, 3 do
        local asked = ARGV[2 + i]
        if asked ~= '' and string.sub(asked, 2) ~= found[i] then return nil end
    end
    return reply(read(id))
end
"""

FIND: Final = Script.of(
    _HEAD
    + _MATCHING
    + """
local limit, below, steps = tonumber(ARGV[6]), ARGV[8], tonumber(ARGV[9])
if ARGV[7] ~= '' then
    below = call('HGET', job_key(string.sub(ARGV[7], 2)), 'seq')
    if not below then return {now, ''} end
end

-- Every job is in one set of each kind: the smallest set that must hold all that match is searched.
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

local found = {now, ''}
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
        local id = chunk[i][1]
        local row = matching(id)
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
"""
)
"""scope, status, owner, limit (1 or more), "=" and the job before or empty, where to go on or empty, how many to look
at → now, where to go on or empty, each row."""

OVERDUE: Final = Script.of(
    _HEAD
    + _MATCHING
    + """
local limit, below = tonumber(ARGV[6]), nil
if ARGV[7] ~= '' then
    below = call('HGET', job_key(string.sub(ARGV[7], 2)), 'seq')
    if not below then return {now} end
end
local members = call('ZRANGEBYSCORE', root .. 'limits', '-inf', now)
table.sort(members, function(a, b) return a > b end)
local found = {now}
for _, member in ipairs(members) do
    local id = entry_id(member)
    local row = (not below or tonumber(string.sub(member, 1, 16)) < tonumber(below)) and matching(id)
    if row then
        found[#found + 1] = row
        if #found > limit then return found end
    end
end
return found
"""
)
"""As `FIND`, but for its last two: all in one step, for the jobs past their limits are few → now, each row."""

PURGE: Final = Script.of(
    _HEAD
    + """
local set, removed, size = root .. 'ended:' .. ARGV[3], 0, 0
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
"""
)
"""status, minus the age in seconds and microseconds, limit → how many were met; how many of them had not expired."""

RETENTION: Final = Script.of(
    _HEAD
    + """
if ARGV[3] == 'swept' then
    local ages = call('HMGET', root .. 'ages', 'completed', 'ended', 'slack')
    if ages[1] == ARGV[4] and ages[2] == ARGV[5] and ages[3] == ARGV[6] then
        call('HSET', root .. 'ages', 'swept', '1')
    end
    return 0
end
local ages = call('HMGET', root .. 'ages', 'completed', 'ended', 'slack', 'swept')
if ages[1] == ARGV[4] and ages[2] == ARGV[5] and ages[3] == ARGV[6] then return ages[4] == '1' and 0 or 1 end
if not ages[1] and ARGV[4] == '0' and ARGV[5] == '0' then return 0 end
call('HSET', root .. 'ages', 'completed', ARGV[4], 'ended', ARGV[5], 'slack', ARGV[6], 'swept', '0')
return 1
"""
)
"""``set``, and both ages (microseconds) and the slack (milliseconds) → 1 where the expiry of ended jobs must be set anew;
``swept`` and the same, once that is done."""

SWEEP: Final = Script.of(
    _HEAD
    + """
local ages = call('HMGET', root .. 'ages', 'completed', 'ended', 'slack')
local page = call('ZSCAN', root .. 'ended:' .. ARGV[3], ARGV[4], 'COUNT', ARGV[5])
for i = 1, #page[2], 2 do
    local id = cmsgpack.unpack(page[2][i])[1]
    local expiry = left(ARGV[3], tonumber(page[2][i + 1]), ages)
    for _, key in ipairs({job_key(id), output_key(id)}) do
        if expiry then call('PEXPIRE', key, expiry) else call('PERSIST', key) end
    end
end
return page[1]
"""
)
"""status, cursor, how many at about → the next cursor."""

MEMORY: Final = Script.of("return redis.call('INFO', 'memory')")
"""What the server says of its memory."""
