-- fetch_gated: read new entries of a stream, and queue those that their gates hold back.
-- KEYS[1] stream  [2] retry index  [3] history
-- ARGV group, owner, how many, most that may queue, most that may be through or queue in all ('' for any), then the
--     gates as gates.lua takes them
-- -> { entries: { id, fields, 1 if it went through a gate, else 0 }, how many were queued, id behind which news comes;
--      '' where the gates let no more be read }
-- Atomic so that no second worker reads, and gates, a later entry of a key first.
local stream, retry, history = unpack(KEYS)
local group, owner, count, most_queued, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local gate = gates(stream, group, retry, history)
local declared = gate.declared(ARGV, 6)
if not (is_type(gate.through, 'zset') and is_type(gate.queued, 'zset') and is_type(history, 'hash')) then
    return redis.error_reply('WRONGTYPE ' .. gate.through .. ', ' .. gate.queued .. ' or ' .. history)
end
local queue = redis.call('ZCARD', gate.queued)
local room = math.min(count, most_queued - queue)
if most then room = math.min(room, most - queue - redis.call('ZCARD', gate.through)) end
if room <= 0 then return { {}, 0, '' } end

local found, queued = {}, 0

-- Let one entry through, or queue it -> its length in bytes.
local function sort(id, fields)
    local known, length = gate.of(fields, declared), 0
    for _, word in ipairs(fields) do length = length + #word end
    if not known then
        found[#found + 1] = { id, fields, 0 }
    elseif gate.enter(known, id) then
        redis.call('HSET', history, id .. ':k', known.text)
        found[#found + 1] = { id, fields, 1 }
    else
        -- It will be delivered once more, and that is nobody's fault.
        redis.call('HSET', history, id .. ':k', known.text, id .. ':u', 1)
        queued = queued + 1
    end
    return length
end

-- Looking into envelopes takes the server's time, by their length. So a few entries first, to see how long they are, and
-- then as many as some milliseconds suffice for.
local left, step = 262144, 8
while room > 0 and left > 0 do
    local reply = redis.call('XREADGROUP', 'GROUP', group, owner, 'COUNT', math.min(room, step), 'STREAMS', stream, '>')
    if not reply then break end
    local entries, length = reply[1][2], 0
    for _, entry in ipairs(entries) do length = length + sort(entry[1], entry[2]) end
    room, left = room - #entries, left - length
    step = math.max(1, math.floor(left * #entries / math.max(1, length)))
end
if #found > 0 or queued > 0 then return { found, queued, '' } end
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local info = fields_of(flat)
    if info['name'] == group then return { {}, 0, info['last-delivered-id'] } end
end
