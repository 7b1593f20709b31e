-- claim: take parked entries that are due, and waiting ones that the caller handles or that have waited too long.
-- KEYS[1] stream  [2] retry index  [3] history  [4] waits
-- ARGV group, owner, how many, prefix of wait indexes, number of pairs, each "TYPE<tab>VERSION" that the caller handles,
--     then its gates as gates.lua takes them
-- -> { taken, expired, gone ids, ms until the next one can be taken or -1 }, an entry being
--    { id, fields, delivery count, failures, uncharged, 1 if it has come to a gate, else 0 }
-- Atomic so that of two workers only one takes an entry, and its index entry goes with it.
local stream, retry, history, waits = unpack(KEYS)
local group, owner, room, wait_prefix = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local taken, expired, gone = {}, {}, {}
local now = now_ms()
local gate = gates(stream, group, retry, history)
local pairs_end = 5 + tonumber(ARGV[5])
local declared = gate.declared(ARGV, pairs_end + 1)

local function drop(id)
    gate.leave(id, true)
    forget(history, id)
end

-- Whether an entry may be taken: its gate lets it through, or it has none. Else it is queued.
local function may_pass(id)
    if #declared == 0 then return true end
    local known = gate.known(id)
    if not known then
        local entry = redis.call('XRANGE', stream, id, id)[1]
        known = entry and gate.of(entry[2], declared)
        if not known then return true end
        redis.call('HSET', history, id .. ':k', known.text)
    end
    return gate.enter(known, id)
end

local function take(id, from, into)
    local p = redis.call('XPENDING', stream, group, id, id, 1, from)[1]
    if not p then
        -- Parked and deleted from the stream: newer servers forget at once that it was pending.
        if not redis.call('XPENDING', stream, group, id, id, 1)[1] then drop(id) end
        return
    end
    if into == taken and not may_pass(id) then return end
    local entry = redis.call('XCLAIM', stream, group, owner, 0, id)[1]
    if not entry or not entry[2] then
        -- Deleted from the stream by somebody else. Redis 6.2 would keep it pending for ever.
        redis.call('XACK', stream, group, id)
        drop(id)
        gone[#gone + 1] = id
        return
    end
    local kept = redis.call('HMGET', history, id .. ':f', id .. ':u', id .. ':k')
    into[#into + 1] = { id, entry[2], p[4] + 1, tonumber(kept[1] or 0), tonumber(kept[2] or 0), kept[3] and 1 or 0 }
end

local function take_from(index, highest, most, from, into)
    if most <= 0 then return end
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', highest, 'LIMIT', 0, most)) do
        redis.call('ZREM', index, id)
        take(id, from, into)
    end
end

take_from(retry, now, room, '~parked', taken)
local handled, more = {}, false
for i = 6, pairs_end do handled[ARGV[i]] = true end
for _, pair in ipairs(redis.call('SMEMBERS', waits)) do
    local kind, version = string.match(pair, '^(.*)\t(.*)$')
    local index = wait_prefix .. kind .. ':' .. version
    if handled[pair] then
        take_from(index, '+inf', room - #taken, '~waiting', taken)
    else
        -- They need no slot: they are given up.
        take_from(index, now, 100 - #expired, '~waiting', expired)
    end
    if redis.call('EXISTS', index) == 0 then
        redis.call('SREM', waits, pair)
    elseif handled[pair] then
        more = true
    end
end
local next_due = more and now or redis.call('ZRANGE', retry, 0, 0, 'WITHSCORES')[2]
return { taken, expired, gone, next_due and math.max(0, math.ceil(next_due - now)) or -1 }
