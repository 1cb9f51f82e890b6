"""The Lua scripts of the Redis store, each one atomic step. See `backjob.stores.redis.lua` for their common part.

The text after each script lists its arguments from ARGV[3] on, and its answer.
"""

from __future__ import annotations

from typing import Final

from backjob.stores.redis.lua import Script

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
    local row = call('HMGET', job_key(id), 'status', 'token', 'version', 'seq', 'error_timeout', 'label')
    if row[1] ~= '1' or row[2] ~= token then return 0 end
    if output ~= '' then set.output_size = fmt('%.0f', call('APPEND', output_key(id), output)) end
    set.version, set.updated_time = fmt('%.0f', row[3] + 1), now
    write(id, set)
    call('ZADD', root .. of_label('limits', row[6]), silent_at(now_number, row[5]), entry(row[4], id))
    return 1
end
"""

GET: Final = Script.of("""
local row = read(ARGV[3], ARGV[4] == '1')
return {now, row and reply(row) or false}
""")
"""id, 1 with the body → now; the row or nil."""

OUTPUT: Final = Script.of("""
return {call('HGET', job_key(ARGV[3]), 'output_truncated'), call('GETRANGE', output_key(ARGV[3]), ARGV[4], ARGV[5])}
""")
"""id, first byte, last byte → output_truncated or nil; bytes."""

CREATE: Final = Script.of(
    _ASSIGNED,
    """
local id, merging, merge_key = ARGV[3], ARGV[4] == '1', ARGV[5]
if merging then
    local holder = call('HGET', root .. 'merge', merge_key)
    local row = holder and read(holder)
    if row then return {now, 'merged', reply(row)} end
end
if call('EXISTS', job_key(id)) == 1 then return {now, 'exists', false} end
if layout ~= this_layout then call('SET', root .. 'layout', this_layout) end
local row = assigned(6)
row.seq = fmt('%.0f', call('INCR', root .. 'sequence'))
write(id, row)
update_entries({}, entries(row), row.label)
if row.label ~= '' then call('SADD', root .. 'labels', row.label) end
if row.root then call('ZADD', root .. 'chain:' .. row.root, row.seq, id) end
call('ZADD', root .. 'scope:' .. row.scope, row.seq, id)
if row.owner then call('ZADD', root .. 'owner:' .. row.owner, row.seq, id) end
if merging then call('HSET', root .. 'merge', merge_key, id) end
return {now, 'created', false}
""",
)
"""id, 1 if merging, merge key, assignments → now; ``created``, ``merged`` or ``exists``; the row of the job merged with."""

CHANGE: Final = Script.of(
    _ASSIGNED,
    """
local id, row = ARGV[3], read(ARGV[3])
if not row then return {now, false} end
for name, value in pairs(cjson.decode(ARGV[4])) do
    if row[name] ~= value then return {now, false} end
end
local set, erased = assigned(5)
local before, ended, merge_key, label = entries(row), row.end_time, row.merge_key, row.label
set.version = fmt('%.0f', row.version + 1)
for name, value in pairs(set) do row[name] = value end
for _, name in ipairs(erased) do row[name] = nil end
update_entries(before, entries(row), label)
if set.label and set.label ~= '' then call('SADD', root .. 'labels', set.label) end
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

REPORT: Final = Script.of(
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

BEAT: Final = Script.of(
    _RUNNING,
    """
for i = 3, #ARGV, 2 do report(ARGV[i], ARGV[i + 1], {}, '') end
return 1
""",
)
"""ids and tokens → 1."""

DUE: Final = Script.of("""
local due = {}
for _, label in ipairs(labels_of(ARGV[7])) do
    local waiting, leased = root .. of_label('waiting', label), root .. of_label('leased', label)
    for _, member in ipairs(call('ZRANGEBYSCORE', leased, '-inf', now, 'LIMIT', 0, 1000)) do
        local start_time = call('HGET', job_key(entry_id(member)), 'start_time')
        call('ZREM', leased, member)
        if start_time then call('ZADD', waiting, start_time, member) end
    end
    local members = call('ZRANGEBYSCORE', waiting, '-inf', now, 'WITHSCORES', 'LIMIT', 0, ARGV[6])
    for i = 1, #members, 2 do
        due[#due + 1] = {member = members[i], start_time = tonumber(members[i + 1]), waiting = waiting, leased = leased}
    end
end
-- Within a label they are in order already; at the same moment, members are in the order of creation.
table.sort(due, function(a, b)
    if a.start_time ~= b.start_time then return a.start_time < b.start_time end
    return a.member < b.member
end)
local found = {now}
local until_ = after(tonumber(ARGV[4]), tonumber(ARGV[5]))
for i = 1, math.min(#due, tonumber(ARGV[6])) do
    local member = due[i].member
    local id = entry_id(member)
    local version = call('HGET', job_key(id), 'version')
    call('ZREM', due[i].waiting, member)
    if version then
        call('ZADD', due[i].leased, until_, member)
        call('HSET', job_key(id), 'lessee', ARGV[3], 'lease_until', until_, 'version', fmt('%.0f', version + 1))
        found[#found + 1] = reply(read(id, true))
    end
end
return found
""")
"""lessee, lease in seconds and microseconds, limit, labels → now; each row with its body."""

_SEARCH: Final = """
local limit, below, counts = tonumber(ARGV[6]), ARGV[8], ARGV[12] == '1'
if ARGV[7] ~= '' then
    below = call('HGET', job_key(string.sub(ARGV[7], 2)), 'seq')
    if not below then return {now, ''} end
end
local labels, has_label = labels_of(ARGV[10]), {}
for _, label in ipairs(labels) do has_label[label] = true end

-- The row of a job for the answer (true if only their number counts), or nil unless it has one of the labels and matches
-- ARGV[3], [4], [5] and [11]: "=" and a scope, status, owner and root, or empty.
local function matching(id)
    local found = call('HMGET', job_key(id), 'scope', 'status', 'owner', 'root', 'label')
    if not found[1] or not has_label[found[5] or ''] then return nil end
    for i, wanted in ipairs({ARGV[3], ARGV[4], ARGV[5], ARGV[11]}) do
        if wanted ~= '' and string.sub(wanted, 2) ~= found[i] then return nil end
    end
    return counts or reply(read(id))
end
"""

_FOUND: Final = """
local found, number = {now, ''}, 0
-- Add a job to the answer if it matches. Returns whether the limit is reached.
local function is_last(id)
    local row = matching(id)
    if row then
        number = number + 1
        found[counts and 3 or number + 2] = counts and number or row
    end
    return number == limit
end
"""

FIND: Final = Script.of(
    _SEARCH,
    _FOUND,
    """
-- Search the smallest sets that contain all matching jobs: by scope, owner or chain, or those of each label by status.
local sets, size = {}, 0
for status = 0, 4 do
    if ARGV[4] == '' or ARGV[4] == '=' .. status then
        for _, label in ipairs(labels) do
            sets[#sets + 1] = root .. of_label('status:' .. status, label)
            size = size + call('ZCARD', sets[#sets])
        end
    end
end
for kind, wanted in pairs({scope = ARGV[3], owner = ARGV[5], chain = ARGV[11]}) do
    if wanted ~= '' then
        local set = root .. kind .. ':' .. string.sub(wanted, 2)
        local count = call('ZCARD', set)
        if count < size then sets, size = {set}, count end
    end
end

local steps = tonumber(ARGV[9])
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
        if is_last(chunk[i][1]) then return found end
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
"""scope, status, owner, limit (at least 1), "=" and the id before or empty, position or empty, how many jobs to examine,
labels, root, 1 to count → now; the position to continue from or empty; each row, or their number."""

OVERDUE: Final = Script.of(
    _SEARCH,
    _FOUND,
    """
local members = {}
for _, label in ipairs(labels) do
    for _, member in ipairs(call('ZRANGEBYSCORE', root .. of_label('limits', label), '-inf', now)) do
        members[#members + 1] = member
    end
end
table.sort(members, function(a, b) return a > b end)
for _, member in ipairs(members) do
    local is_below = below == '' or tonumber(string.sub(member, 1, 16)) < tonumber(below)
    if is_below and is_last(entry_id(member)) then return found end
end
return found
""",
)
"""As `FIND`, for the jobs past their time limit. There are few of them, so one call examines them all."""

PURGE: Final = Script.of("""
local set, removed = root .. of_label('ended:' .. ARGV[3], ARGV[7]), 0
local ended_before = '(' .. after(tonumber(ARGV[4]), tonumber(ARGV[5]))
local members = call('ZRANGEBYSCORE', set, '-inf', ended_before, 'LIMIT', 0, ARGV[6])
for _, member in ipairs(members) do
    local id, scope, owner, chain = unpack(cmsgpack.unpack(member))
    removed = removed + call('UNLINK', job_key(id))
    call('UNLINK', output_key(id))
    call('ZREM', set, member)
    call('ZREM', root .. of_label('status:' .. ARGV[3], ARGV[7]), id)
    call('ZREM', root .. 'scope:' .. scope, id)
    if owner then call('ZREM', root .. 'owner:' .. owner, id) end
    if chain then call('ZREM', root .. 'chain:' .. chain, id) end
end
return {#members, removed}
""")
"""status, minus the age in seconds and microseconds, limit, label → number of entries removed; number of jobs removed."""

LABELS: Final = Script.of("return labels_of('')")
"""→ every label that a job may have."""

MEMORY: Final = Script.plain("return redis.call('INFO', 'memory')")
"""→ the section "memory" of the server's INFO."""
