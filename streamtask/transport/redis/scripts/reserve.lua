-- reserve: give starts of limited handlers their times, in the order in which they are asked for.
-- KEYS the limit of each start (several may be of one)
-- ARGV how far ahead a start may be reserved and the longest wait, both in µs, then for each start: µs between two
--     starts of its limit, 1 if it goes before those that wait (else 0)
-- -> for each: µs until its time, 1 if that is its start and nobody else's (else 0: ask again then)
-- Atomic so that no two starts get one time. A limit is "START END", both µs: when the next start is free, and when
-- the last of those that were told to ask again does so. Neither is ever further off than what could be given out, so
-- that a clock that was set back holds nothing up.
let_pass(KEYS[1])
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local horizon, longest = tonumber(ARGV[1]), tonumber(ARGV[2])
local limits, replies = {}, {}

local function limit_of(key, spacing)
    local limit = limits[key]
    if not limit then
        local free, last = string.match(redis.call('GET', key) or '', '^(%d+) (%d+)$')
        limit = { free = tonumber(free or 0), last = tonumber(last or 0) }
        limits[key] = limit
    end
    limit.free = math.max(now, math.min(limit.free, now + horizon + spacing))
    limit.last = math.max(limit.free, math.min(limit.last, now + longest + spacing))
    return limit
end

for i, key in ipairs(KEYS) do
    local spacing, first = tonumber(ARGV[2 * i + 1]), ARGV[2 * i + 2] == '1'
    local limit = limit_of(key, spacing)
    if (first and limit.free or limit.last) <= now + horizon then
        replies[i] = { limit.free - now, 1 }
        limit.free = limit.free + spacing
    else
        replies[i] = { math.min(limit.last - now, longest), 0 }
        limit.last = limit.last + spacing
    end
end
for key, limit in pairs(limits) do
    local ends = math.max(limit.free, limit.last)
    redis.call('SET', key, string.format('%.0f %.0f', limit.free, ends), 'PX', math.ceil((ends - now) / 1000) + 1)
end
return replies
