-- promote: append the delayed events that are due.
-- KEYS[1] stream  [2] delayed index  [3] delayed bodies  [4] debounce: which of them stand for a key   ARGV how many   -> ms until the next one, -1: none waits
-- Atomic so that an event is in the index or in the stream, never in both or neither.
-- Asked by every worker, five times a second and more: most find nothing, which costs one look.
local function next_due()
    local due = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
    return due and math.max(0, math.ceil(due - now_ms())) or -1
end

local wait = next_due()
if wait ~= 0 then return wait end
-- Removals of nothing: refused here (no permission), not after an event was appended, which would then be appended again
-- at every call. The first one also lets the others pass on a server that is full.
redis.call('HDEL', KEYS[3], '')
redis.call('ZREM', KEYS[2], '')
local debounced = redis.call('TYPE', KEYS[4])['ok'] == 'hash'
for _, event_id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now_ms(), 'LIMIT', 0, tonumber(ARGV[1]))) do
    local body = redis.call('HGET', KEYS[3], event_id)
    if body then redis.call('XADD', KEYS[1], '*', unpack(cmsgpack.unpack(body))) end
    redis.call('HDEL', KEYS[3], event_id)
    redis.call('ZREM', KEYS[2], event_id)
    if debounced then free_key(KEYS[4], event_id) end
end
return next_due()
