"""The Lua scripts that search for jobs. See `backjob.stores.redis.scripts` for the others."""

from __future__ import annotations

from typing import Final

from backjob.stores.redis.lua import Script

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
