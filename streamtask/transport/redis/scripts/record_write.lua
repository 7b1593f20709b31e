-- record_write: set fields of a record, and renew it.
-- KEYS[1] record   ARGV ttl ms, then field, value for each   -> 1
-- Atomic because a record that is written and gets no end stays for ever.
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
