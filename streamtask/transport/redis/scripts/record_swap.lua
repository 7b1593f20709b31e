-- record_swap: change fields of a record if others, or the same, are as expected; and renew the record.
-- KEYS[1] record   ARGV ttl ms, number of expectations, then for each and behind them for each change: field, 1 for a
--     value or 0 for none, the value   -> 1, or 0 where an expectation did not hold: nothing was changed
-- Atomic because two who have read the same must not both write what follows from it.
local first = 3 + 3 * ARGV[2]
for i = 3, first - 1, 3 do
    local stands = redis.call('HGET', KEYS[1], ARGV[i])
    if ARGV[i + 1] == '1' then
        if stands ~= ARGV[i + 2] then return 0 end
    elseif stands then
        return 0
    end
end
for i = first, #ARGV, 3 do
    if ARGV[i + 1] == '1' then
        redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
    else
        redis.call('HDEL', KEYS[1], ARGV[i])
    end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
