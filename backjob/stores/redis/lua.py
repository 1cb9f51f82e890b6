"""The common part of all Lua scripts of the Redis store: the layout of the keys, and functions to read and write jobs.

A job is a hash, its output a string, and the tail of its output another. The indexes are sorted sets: by status, scope and owner in the order of
creation, waiting jobs by start time or lease, unfinished jobs by time limit, ended jobs by end time, but those with a file
by status. All but those by scope and owner exist for each label. The jobs that wait without a lease have a set for each queue, so that full queues
cost nothing to skip. Merge keys and slots are hashes to job ids.

KEYS[1] is the prefix of all keys; its hash tag puts them into one slot. ARGV[1] and ARGV[2] are the store's now in seconds
and microseconds, or empty for the server's. The arguments of a script follow from ARGV[3] on.
"""

from __future__ import annotations

import hashlib
from typing import Final

from attrs import frozen

from backjob.lifecycle import TIMED_OUT
from backjob.model import DEFAULT_QUEUE
from backjob.stores.columns import ADDED, JOB_COLUMNS, Kind


@frozen
class Script:
    """A Lua script, and the digest by which a server finds it again."""

    source: bytes
    digest: str

    @classmethod
    def plain(cls, source: str) -> Script:
        """A script of this source alone."""
        encoded = source.encode()
        return cls(encoded, hashlib.sha1(encoded, usedforsecurity=False).hexdigest())

    @classmethod
    def of(cls, *parts: str) -> Script:
        """A script of these parts after the common part."""
        return cls.plain("".join((_BEGIN, _JOBS, *parts)))


LAYOUT: Final = 4
"""The number of the layout that these scripts write, stored under the key ``…:layout``.

The keys of layouts 1 to 3 are those of jobs without a label, of the default queue, and without a file or a tail, so these
scripts can read them.
"""

OVER_LAYOUT: Final = "BACKJOBLAYOUT"
"""The code of the error that the scripts return if the keys have another layout."""

_BEGIN: Final = f"""
local call, fmt = redis.call, string.format
local root = KEYS[1] .. ':'
local layout, this_layout = call('GET', root .. 'layout'), '{LAYOUT}'
if layout and layout ~= this_layout and layout ~= '1' and layout ~= '2' and layout ~= '3' then
    return redis.error_reply('{OVER_LAYOUT} ' .. layout)
end
-- Processes of an earlier version refuse the keys from then on.
local function set_layout()
    if layout ~= this_layout then call('SET', root .. 'layout', this_layout) end
end
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

TEXTS: Final = tuple([column.name for column in JOB_COLUMNS if column.kind is not Kind.BYTES])
"""The columns in the JSON of a job, in their order. ``seq`` follows them."""

_READ: Final = (*TEXTS, "seq", "sealed")
_DECISIVE: Final = (
    *(
        "id",
        "seq",
        "status",
        "token",
        "run",
        "version",
        "start_time",
        "end_time",
        "lease_until",
        "expires",
        "deliver_by",
    ),
    *("updated_time", "error_timeout", "label", "queue", "slot", "scope", "owner", "root", "merge_key", "file"),
)
"""The columns by which the scripts decide."""


ABSENT: Final = {column.name: str(column.default) for column in ADDED if column.default is not None}
"""The values of columns that jobs of an earlier layout lack."""


def _value(name: str) -> str:
    """The value of a column that was read, or that of jobs of an earlier layout which lack it."""
    read = f"v[{_READ.index(name) + 1}]"
    return f"{read} or '{ABSENT[name]}'" if name in ABSENT else read


POSITIONS: Final = f"local at = {{{', '.join([f'{name} = {at}' for at, name in enumerate(_READ, 1)])}}}"
"""Where the columns are in what `read` returns, for scripts that change them."""

_JOBS: Final = (
    f"""
local all_columns = {{{", ".join([repr(name) for name in _READ])}}}
-- The columns by which a script decides, of the values of all; false if a job lacks one.
local function row_of(v)
    return {{{", ".join([f"{name} = {_value(name)}" for name in _DECISIVE])}}}
end
-- A job in an answer: JSON of its texts, or that and the columns of bytes if there are any. Takes them from the values.
local function reply(values, body)
    local sealed = values[{len(_READ)}]
    values[{len(_READ)}] = nil
    local text = cjson.encode(values)
    if sealed or body then return {{text, sealed, body or false}} end
    return text
end
local default_queue, timed_out = '{DEFAULT_QUEUE}', '{TIMED_OUT}'
"""
    """
local function job_key(id) return root .. 'job:' .. id end
local function output_key(id) return root .. 'output:' .. id end
local function tail_key(id) return root .. 'tail:' .. id end

-- The values of all columns of a job, false for those that it lacks.
local function read(id)
    local values = call('HMGET', job_key(id), unpack(all_columns))
    return values[1] and values
end

-- The name of a label's set.
local function of_label(set, label)
    if not label or label == '' then return set end
    return set .. '@' .. label
end
-- The labels in JSON, or all there are if it is empty.
local function labels_of(text)
    if text ~= '' then return cjson.decode(text) end
    local labels = call('SMEMBERS', root .. 'labels')
    labels[#labels + 1] = ''
    return labels
end

-- Members of the sets of living jobs: at the same score, Redis keeps them in the order of creation.
local function entry(seq, id) return fmt('%016.0f', seq) .. id end
local function entry_id(member) return string.sub(member, 17) end

local function is_final(row) return tonumber(row.status) >= 2 end
local function is_waiting(row) return not row.token and not is_final(row) end

-- The lane of a job that waits without a lease: its queue, or "*" if it has a slot. Each lane of a label is a set, and the
-- label has a list of the lanes beside that of the default queue.
local function lane(row)
    if row.slot then return '*' end
    if not row.queue or row.queue == default_queue then return '' end
    return #row.queue .. ':' .. row.queue
end
local function waiting(name)
    if name == '' then return 'waiting' end
    return 'waiting:' .. name
end
local function open_lane(name, label)
    if name ~= '' then call('SADD', root .. of_label('lanes', label), name) end
end

-- When an unfinished job passes its first time limit, or nil if it has none.
local function limit_of(row)
    local first
    local function consider(limit)
        if limit and (not first or tonumber(limit) < tonumber(first)) then first = limit end
    end
    if is_waiting(row) then
        consider(row.expires)
        consider(row.deliver_by)
    else
        consider(row.lease_until)
        if row.token ~= timed_out and tonumber(row.error_timeout) > 0 then
            consider(fmt('%.0f', row.updated_time + row.error_timeout))
        end
    end
    return first
end

-- The entries of a job that depend on its state: set -> member and score. Then, for a leased job, the set to which DUE may
-- have moved its entry: the row keeps a lease that has ended.
local function entries(row)
    local found, member, moved = {}, entry(row.seq, row.id), nil
    local function add(set, entry_of_job, score) found[of_label(set, row.label)] = {entry_of_job, score} end
    add('status:' .. row.status, row.id, row.seq)
    if not is_final(row) then
        local limit = limit_of(row)
        if limit then add('limits', member, limit) end
    elseif row.file then
        add('filed:' .. row.status, row.id, row.seq)  -- a purge leaves it
    elseif row.end_time then
        -- With scope, owner and root, so that a purge removes the other entries even if the hash was evicted.
        local packed = {row.id, row.scope, row.owner or false}
        if row.root then packed[4] = row.root end
        add('ended:' .. row.status, cmsgpack.pack(packed), row.end_time)
    end
    if is_waiting(row) then
        if row.lease_until then
            add('leased', member, row.lease_until)
            moved = of_label(waiting(lane(row)), row.label)
        else
            add(waiting(lane(row)), member, row.start_time)
        end
    end
    return found, moved
end

-- Bring the entries of a job up to date, given what `entries` returned for it before a change.
local function update_entries(row, before, moved)
    local present = entries(row)
    if moved then call('ZREM', root .. moved, entry(row.seq, row.id)) end
    for set, place in pairs(before) do
        if not present[set] then call('ZREM', root .. set, place[1]) end
    end
    for set, place in pairs(present) do
        if moved or not before[set] or before[set][2] ~= place[2] then call('ZADD', root .. set, place[2], place[1]) end
    end
    if is_waiting(row) then open_lane(lane(row), row.label) end
end

-- Free a merge key or a slot, if this job has it.
local function free(kind, name, id)
    if name and call('HGET', root .. kind, name) == id then call('HDEL', root .. kind, name) end
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
)
