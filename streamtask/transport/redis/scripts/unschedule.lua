-- unschedule: forget a delayed event.
-- KEYS[1] delayed index  [2] delayed bodies  [3] debounce   ARGV event id   -> 1, or 0: it does not wait (any more)
-- Atomic so that it is promoted or forgotten, never half of both. The first lines change nothing: what may not be written
-- is refused there.
redis.call('HDEL', KEYS[2], '')
redis.call('HDEL', KEYS[3], '')
local waited = redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
free_key(KEYS[3], ARGV[1])
return waited
