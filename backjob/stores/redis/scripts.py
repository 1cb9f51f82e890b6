"""The Lua scripts of the Redis store that read and write jobs, each one atomic step. `backjob.stores.redis.lua` has their
common part, `backjob.stores.redis.searches` the scripts that search.

The text after each script lists its arguments from ARGV[3] on, and its answer.
"""

from __future__ import annotations

from typing import Final

from backjob.stores.redis.lua import POSITIONS, Script

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
-- The columns of a job that decide its time limit, or nil unless it runs with this token.
local function running(id, token)
    local row = call('HMGET', job_key(id), 'status', 'token', 'version', 'seq', 'updated_time', 'error_timeout',
        'lease_until', 'label')
    if row[1] ~= '1' or row[2] ~= token then return nil end
    return {status = '1', token = token, version = row[3], seq = row[4], updated_time = row[5], error_timeout = row[6],
        lease_until = row[7] or nil, label = row[8]}
end
local function move_limit(id, row)
    local limit = limit_of(row)
    if limit then call('ZADD', root .. of_label('limits', row.label), limit, entry(row.seq, id)) end
end
"""

GET: Final = Script.of("""
local values = read(ARGV[3])
return {now, values and reply(values, ARGV[4] == '1' and call('HGET', job_key(ARGV[3]), 'body'))}
""")
"""id, 1 with the body → now; the row or nil."""

OUTPUT: Final = Script.of("""
local row = call('HMGET', job_key(ARGV[3]), 'output_truncated', 'output_size')
local output, tail = call('GETRANGE', output_key(ARGV[3]), ARGV[4], ARGV[5]), false
if row[1] == '1' and tonumber(ARGV[5]) >= tonumber(row[2]) then tail = call('GET', tail_key(ARGV[3])) end
return {row[1], output, row[2], tail}
""")
"""id, first byte, last byte → output_truncated or nil; bytes; output_size or nil; the tail, if the last byte is past the end."""

CREATE: Final = Script.of(
    _ASSIGNED,
    """
local id, merging, merge_key = ARGV[3], ARGV[4] == '1', ARGV[5]
if merging then
    local holder = call('HGET', root .. 'merge', merge_key)
    local values = holder and read(holder)
    if values then return {now, 'merged', reply(values)} end
end
if call('EXISTS', job_key(id)) == 1 then return {now, 'exists', false} end
set_layout()
local row = assigned(6)
row.seq = fmt('%.0f', call('INCR', root .. 'sequence'))
write(id, row)
update_entries(row, {})
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
    POSITIONS,
    """
local id, values = ARGV[3], read(ARGV[3])
if not values then return {now, false} end
local row = row_of(values)
for name, value in pairs(cjson.decode(ARGV[4])) do
    if row[name] ~= value then return {now, false} end
end
if ARGV[5] == '1' and not is_waiting(row) then return {now, false} end
if ARGV[6] == '1' and not (row.lease_until and tonumber(row.lease_until) <= now_number) then return {now, false} end
local set, erased = assigned(7)
local slots, merge_key, slot, ended = root .. 'slots', row.merge_key, row.slot, row.end_time
if set.slot and set.slot ~= slot then
    -- A holder that the server has evicted can't release its slot.
    local holder = call('HGET', slots, set.slot)
    if holder and call('HGET', job_key(holder), 'slot') == set.slot then return {now, 'taken'} end
end
set_layout()
local before, moved = entries(row)
set.version = fmt('%.0f', row.version + 1)
for name, value in pairs(set) do row[name], values[at[name]] = value, value end
for _, name in ipairs(erased) do
    row[name] = nil
    if at[name] then values[at[name]] = false end
end
update_entries(row, before, moved)
if set.label and set.label ~= '' then call('SADD', root .. 'labels', set.label) end
if merge_key and not row.merge_key then call('HDEL', root .. 'merge', merge_key) end
if slot and slot ~= row.slot then call('HDEL', slots, slot) end
if row.slot and slot ~= row.slot then call('HSET', slots, row.slot, id) end
if row.end_time and not ended then
    -- Written again from scratch: a hash that never had long values takes a third of the memory.
    local body, columns = call('HGET', job_key(id), 'body'), {}
    for _, name in ipairs(erased) do if name == 'body' then body = nil end end
    for i, name in ipairs(all_columns) do columns[name] = values[i] or nil end
    columns.body = body or nil
    call('DEL', job_key(id))
    write(id, columns)
else
    write(id, set)
    if #erased > 0 then call('HDEL', job_key(id), unpack(erased)) end
end
return {now, reply(values)}
""",
)
"""id, JSON of column → expected value, 1 if it must be unclaimed, 1 if its lease must be over, assignments → now; the
changed row, or nil, or ``taken`` for a slot of another job."""

REPORT: Final = Script.of(
    _RUNNING,
    """
local id, progress, text, cursor, output = ARGV[3], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local row, set = running(id, ARGV[4]), {}
if not row then return 0 end
if progress ~= '' then set.progress = progress end
if text ~= '' then set.status_text = string.sub(text, 2) end
if cursor ~= '' then set.attempt = '1' end
if cursor == '-' then call('HDEL', job_key(id), 'cursor') elseif cursor ~= '' then set.cursor = string.sub(cursor, 2) end
if ARGV[9] == '1' then set.output_truncated = '1' end
if output ~= '' then set.output_size = fmt('%.0f', call('APPEND', output_key(id), output)) end
if ARGV[10] == '-' then call('UNLINK', tail_key(id)) elseif ARGV[10] ~= '' then call('SET', tail_key(id), string.sub(ARGV[10], 2)) end
set.version, set.updated_time, row.updated_time = fmt('%.0f', row.version + 1), now, now
write(id, set)
move_limit(id, row)
return 1
""",
)
"""id, token, progress or empty, "=" and text or empty, "=" and cursor or "-" or empty, output, 1 if truncated, "=" and tail
or "-" or empty → 1 if it was written, or 0 if the job does not run with this token."""

BEAT: Final = Script.of(
    _RUNNING,
    """
local until_, stale = after(tonumber(ARGV[3]), tonumber(ARGV[4])), {}
for i = 5, #ARGV, 3 do
    local id = ARGV[i]
    local row = running(id, ARGV[i + 1])
    if row then
        row.lease_until = until_
        if ARGV[i + 2] == '1' then row.updated_time = now end
        call('HSET', job_key(id), 'lease_until', until_, 'updated_time', row.updated_time)
        move_limit(id, row)
    else
        stale[#stale + 1] = id
    end
end
return stale
""",
)
"""lease in seconds and microseconds; of each job id, token, 1 if it is alive → the ids that do not run with their token."""

DUE: Final = Script.of("""
local due, full, wanted = {}, {}, nil
for _, queue in ipairs(cjson.decode(ARGV[8])) do full[lane({queue = queue})] = true end
if ARGV[9] ~= '' then
    wanted = {}
    for _, queue in ipairs(cjson.decode(ARGV[9])) do wanted[lane({queue = queue})] = true end
end

-- Whether jobs of a lane may be of a queue to take. The jobs with slots are of any queue, so each of them is looked at.
local function may_have(name) return not full[name] and (not wanted or wanted[name] or name == '*') end
local function is_wanted(name, member)
    if not wanted or name ~= '*' then return true end
    return wanted[lane({queue = call('HGET', job_key(entry_id(member)), 'queue') or nil})]
end

-- Add the waiting jobs of a lane that are due. An empty one is removed from the list of lanes.
local function collect(name, label)
    local set = root .. of_label(waiting(name), label)
    local members = call('ZRANGEBYSCORE', set, '-inf', now, 'WITHSCORES', 'LIMIT', 0, wanted and name == '*' and 1000 or ARGV[6])
    for i = 1, #members, 2 do
        if is_wanted(name, members[i]) then
            due[#due + 1] = {member = members[i], start_time = tonumber(members[i + 1]), set = set, label = label}
        end
    end
    if #members == 0 and name ~= '' and call('ZCARD', set) == 0 then
        call('SREM', root .. of_label('lanes', label), name)
    end
end

for _, label in ipairs(labels_of(ARGV[7])) do
    local leased = root .. of_label('leased', label)
    for _, member in ipairs(call('ZRANGEBYSCORE', leased, '-inf', now, 'LIMIT', 0, 1000)) do
        local row = call('HMGET', job_key(entry_id(member)), 'start_time', 'slot', 'queue')
        call('ZREM', leased, member)
        if row[1] then
            local name = lane({slot = row[2], queue = row[3]})
            call('ZADD', root .. of_label(waiting(name), label), row[1], member)
            open_lane(name, label)
        end
    end
    if may_have('') then collect('', label) end
    for _, name in ipairs(call('SMEMBERS', root .. of_label('lanes', label))) do
        if may_have(name) then collect(name, label) end
    end
end
-- Within a lane they are in order already; at the same moment, members are in the order of creation.
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
    call('ZREM', due[i].set, member)
    if version then
        call('ZADD', root .. of_label('leased', due[i].label), until_, member)
        call('HSET', job_key(id), 'lessee', ARGV[3], 'lease_until', until_, 'version', fmt('%.0f', version + 1))
        found[#found + 1] = reply(read(id), call('HGET', job_key(id), 'body'))
    end
end
return found
""")
"""lessee, lease in seconds and microseconds, limit, labels, JSON of the full queues, queues → now; each row with its body."""

DELETE: Final = Script.of("""
local id, values = ARGV[3], read(ARGV[3])
call('UNLINK', job_key(id), output_key(id), tail_key(id))
if not values then return 0 end
local row = row_of(values)
local present, moved = entries(row)
if moved then call('ZREM', root .. moved, entry(row.seq, id)) end
for set, place in pairs(present) do call('ZREM', root .. set, place[1]) end
call('ZREM', root .. 'scope:' .. row.scope, id)
if row.owner then call('ZREM', root .. 'owner:' .. row.owner, id) end
if row.root then call('ZREM', root .. 'chain:' .. row.root, id) end
free('merge', row.merge_key, id)
free('slots', row.slot, id)
return 1
""")
"""id → 1 if it was removed, or 0 if it is unknown."""

PURGE: Final = Script.of("""
local set, removed = root .. of_label('ended:' .. ARGV[3], ARGV[7]), 0
local ended_before = '(' .. after(tonumber(ARGV[4]), tonumber(ARGV[5]))
local members = call('ZRANGEBYSCORE', set, '-inf', ended_before, 'LIMIT', 0, ARGV[6])
for _, member in ipairs(members) do
    local id, scope, owner, chain = unpack(cmsgpack.unpack(member))
    free('merge', call('HGET', job_key(id), 'merge_key'), id)
    removed = removed + call('UNLINK', job_key(id))
    call('UNLINK', output_key(id), tail_key(id))
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
