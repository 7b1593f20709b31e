-- blob_append: add a piece to a part of a blob.
-- KEYS[1] part   ARGV bytes that it has to have, ttl ms, piece   -> 1 added, 0 it has another length
-- Atomic because a plain APPEND begins anew, and for ever, where the part has run out meanwhile.
if redis.call('STRLEN', KEYS[1]) ~= tonumber(ARGV[1]) then return 0 end
redis.call('APPEND', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
