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

local reply = redis.call('XREADGROUP', 'GROUP', group, owner, 'COUNT', room, 'STREAMS', stream, '>')
local found, queued = {}, 0
for _, entry in ipairs(reply and reply[1][2] or {}) do
    local id, fields = entry[1], entry[2]
    local known = gate.of(fields, declared)
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
end
if #found > 0 or queued > 0 then return { found, queued, '' } end
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local info = fields_of(flat)
    if info['name'] == group then return { {}, 0, info['last-delivered-id'] } end
end
