-- blob_commit: make a part the blob.
-- KEYS[1] blob  [2] part   ARGV what the keys of parts begin with, part, size, ttl ms, grace ms
-- -> 1 done, 0 the part is not whole
-- Atomic so that a blob and its bytes stand together, and the part that it replaces is known. Not RENAME: a user who may
-- rename what is a blob's may rename streams. The part outlives the blob, for who has just begun to read it.
local parts, part, size, ttl, grace = unpack(ARGV)
if redis.call('EXISTS', KEYS[2]) == 0 or redis.call('STRLEN', KEYS[2]) ~= tonumber(size) then return 0 end
local before = redis.call('GET', KEYS[1])
if before then redis.call('PEXPIRE', parts .. string.match(before, '^%S*'), grace) end
redis.call('SET', KEYS[1], part .. ' ' .. size, 'PX', ttl)
redis.call('PEXPIRE', KEYS[2], ttl + grace)
return 1
