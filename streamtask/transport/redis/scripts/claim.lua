-- claim: take parked entries that are due, and waiting ones that the caller handles or that have waited too long.
-- KEYS[1] stream  [2] retry index  [3] history  [4] waits
-- ARGV group, owner, how many, prefix of wait indexes, then each "TYPE<tab>VERSION" that the caller handles
-- -> { taken, expired, gone ids, ms until the next parked entry is due or -1 }, an entry being
--    { id, fields, delivery count, failures, uncharged }
-- Atomic so that of two workers only one takes an entry, and its index entry goes with it.
local stream, retry, history, waits = unpack(KEYS)
local group, owner, room, wait_prefix = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local taken, expired, gone = {}, {}, {}
local now = now_ms()

local function take(id, from, into)
    local p = redis.call('XPENDING', stream, group, id, id, 1, from)[1]
    if not p then return end
    local entry = redis.call('XCLAIM', stream, group, owner, 0, id)[1]
    if not entry or not entry[2] then
        -- Deleted from the stream by somebody else. Redis 6.2 would keep it pending for ever.
        redis.call('XACK', stream, group, id)
        redis.call('HDEL', history, id .. ':f', id .. ':u', id .. ':e')
        gone[#gone + 1] = id
        return
    end
    local counts = redis.call('HMGET', history, id .. ':f', id .. ':u')
    into[#into + 1] = { id, entry[2], p[4] + 1, tonumber(counts[1] or 0), tonumber(counts[2] or 0) }
end

if room > 0 then
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', retry, '-inf', now, 'LIMIT', 0, room)) do
        redis.call('ZREM', retry, id)
        take(id, '~parked', taken)
    end
    local handled = {}
    for i = 5, #ARGV do handled[ARGV[i]] = true end
    for _, pair in ipairs(redis.call('SMEMBERS', waits)) do
        local kind, version = string.match(pair, '^(.*)\t(.*)$')
        local index = wait_prefix .. kind .. ':' .. version
        local left = room - #taken - #expired
        local highest = handled[pair] and '+inf' or now
        if left > 0 then
            for _, id in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', highest, 'LIMIT', 0, left)) do
                redis.call('ZREM', index, id)
                take(id, '~waiting', handled[pair] and taken or expired)
            end
            if redis.call('EXISTS', index) == 0 then redis.call('SREM', waits, pair) end
        end
    end
end
local next_due = redis.call('ZRANGE', retry, 0, 0, 'WITHSCORES')[2]
return { taken, expired, gone, next_due and math.max(0, math.ceil(next_due - now)) or -1 }
