-- record_claim: set a field unless it is set, and renew the record.
-- KEYS[1] record   ARGV ttl ms, field, value   -> the value that stands
-- Atomic as record_write, and so that the value that is answered is the one that the end was set for.
redis.call('HSETNX', KEYS[1], ARGV[2], ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return redis.call('HGET', KEYS[1], ARGV[2])
