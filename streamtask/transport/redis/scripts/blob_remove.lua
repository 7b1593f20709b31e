-- blob_remove: remove a blob with its bytes.
-- KEYS[1] blob   ARGV what the keys of parts begin with   -> 1 removed, 0 there was none
-- Atomic so that one that is stored meanwhile is not removed by half. By PEXPIRE: who stores blobs needs no DEL.
local stored = redis.call('GET', KEYS[1])
if not stored then return 0 end
redis.call('PEXPIRE', ARGV[1] .. string.match(stored, '^%S*'), 0)
return redis.call('PEXPIRE', KEYS[1], 0)
