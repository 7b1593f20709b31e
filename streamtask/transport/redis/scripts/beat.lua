-- beat: an owner lives.
-- KEYS[1] its beat  [2] workers   ARGV owner, ttl ms, info   -> the server's time, ms
-- A script so that the time is the server's. Owners that died an hour ago leave the list.
local now = now_ms()
-- First, so that a full server lets the others pass: it is a write that takes no memory.
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - 3600000)
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[2])
redis.call('ZADD', KEYS[2], now, ARGV[1])
return now
