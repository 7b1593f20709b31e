-- delete_consumer: remove a consumer that holds nothing.
-- KEYS[1] stream   ARGV group, consumer   -> 1 removed, 0 it holds entries or is not there
-- Atomic because DELCONSUMER drops what the consumer holds: those entries would never be delivered again.
if redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])[1] then return 0 end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
return 1
