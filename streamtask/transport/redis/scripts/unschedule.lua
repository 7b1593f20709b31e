-- unschedule: forget a delayed event.
-- KEYS[1] delayed index  [2] delayed bodies   ARGV event id   -> 1, or 0: it does not wait (any more)
-- Atomic so that it is promoted or forgotten, never half of both. The first line changes nothing: what may not be written
-- is refused there.
redis.call('HDEL', KEYS[2], '')
local waited = redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return waited
