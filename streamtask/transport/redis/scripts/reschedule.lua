-- reschedule: have a delayed event come at another time.
-- KEYS[1] delayed index  [2] delayed bodies   ARGV event id, due: 'in:MS' or 'at:MS'   -> 1, or 0: it does not wait
-- Atomic so that one that is promoted meanwhile is not put back into the index, where it would be due without a body.
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then return 0 end
let_pass(KEYS[2])
local way, ms = string.match(ARGV[2], '^(%a+):(-?%d+)$')
redis.call('ZADD', KEYS[1], tonumber(ms) + (way == 'in' and now_ms() or 0), ARGV[1])
return 1
