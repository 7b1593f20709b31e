-- cancel: note that nobody wants an event any more, unless it has a result; what is scheduled goes at once.
-- KEYS[1] cancelled mark  [2] result  [3] news of results  [4] delayed index  [5] delayed bodies  [6] debounce
-- ARGV event id, ttl ms, result ttl ms (0: there is none), result   -> 1 cancelled, 0 it has a result
-- Atomic so that a scheduled event is either promoted, and whoever begins it finds the mark, or never will be.
local mark, result, news, delayed, bodies, debounced = unpack(KEYS)
local event_id, ttl, result_ttl, body = unpack(ARGV)
if redis.call('EXISTS', result) == 1 then return 0 end
-- Refused here, if at all: it changes nothing.
redis.call('HDEL', debounced, '')
redis.call('SET', mark, '1', 'PX', ttl)
if redis.call('ZREM', delayed, event_id) == 1 then
    redis.call('HDEL', bodies, event_id)
    free_key(debounced, event_id)
    if result_ttl ~= '0' then
        redis.call('SET', result, body, 'PX', result_ttl)
        redis.call('XADD', news, 'MAXLEN', '~', 10000, '*', 'id', event_id)
        redis.pcall('PEXPIRE', news, 86400000)
    end
end
return 1
