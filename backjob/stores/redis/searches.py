"""The Lua scripts that search for jobs. See `backjob.stores.redis.scripts` for the others."""

from __future__ import annotations

from typing import Final

from backjob.stores.redis.lua import Script

_SEARCH: Final = """
local wanted = cjson.decode(ARGV[3])
local limit, below, counts = tonumber(ARGV[4]), ARGV[5], ARGV[7] == '1'
local earlier = not wanted.before and tonumber(wanted.before_time)
if wanted.before then
    local before = call('HGET', job_key(wanted.before), 'seq')
    if before then
        if below == '' then below = before end
    elseif wanted.before_time then
        earlier = tonumber(wanted.before_time)
    else
        return {now, ''}
    end
end
local labels, has_label, statuses, ages = labels_of(wanted.labels or ''), {}, {}, wanted.ages
for _, label in ipairs(labels) do has_label[label] = true end
for _, status in ipairs(wanted.statuses) do statuses[tostring(status)] = true end
local text = wanted.text and string.lower(wanted.text)
local function has_text(value) return value and string.find(string.lower(value), text, 1, true) end

-- The row of a job for the answer (true if only their number counts), or nil unless it matches.
local function matching(id)
    local found = call('HMGET', job_key(id), 'scope', 'owner', 'root', 'queue', 'status', 'label', 'created_time', 'end_time',
        'file', 'title', 'path')
    if not found[1] or not statuses[found[5]] or not has_label[found[6] or ''] then return nil end
    for i, value in ipairs({wanted.scope or false, wanted.owner or false, wanted.root or false}) do
        if value and value ~= found[i] then return nil end
    end
    if wanted.queue and wanted.queue ~= (found[4] or default_queue) then return nil end
    if earlier and tonumber(found[7]) >= earlier then return nil end
    if ages then
        local age = ages[found[5]]
        if not age or not found[8] or tonumber(found[8]) >= tonumber(after(age[1], age[2])) then return nil end
    end
    if wanted.has_file and not found[9] then return nil end
    if text and not has_text(found[10]) and not has_text(found[11]) then return nil end
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
-- Search the smallest sets that contain all matching jobs: by scope, owner or chain, or those of each label by status. Of
-- the ended jobs, those with a file have a set of their own.
local sets, size = {}, 0
for _, label in ipairs(labels) do
    for status in pairs(statuses) do
        local name = 'status:' .. status
        if ages and wanted.has_file then name = 'filed:' .. status end
        sets[#sets + 1] = root .. of_label(name, label)
        size = size + call('ZCARD', sets[#sets])
    end
end
for kind, value in pairs({scope = wanted.scope or false, owner = wanted.owner or false, chain = wanted.root or false}) do
    if value then
        local set = root .. kind .. ':' .. value
        local count = call('ZCARD', set)
        if count < size then sets, size = {set}, count end
    end
end

local steps = tonumber(ARGV[6])
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
"""JSON of the query, limit (at least 1), position or empty, how many jobs to examine, 1 to count → now; the position to
continue from or empty; each row, or their number."""

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
