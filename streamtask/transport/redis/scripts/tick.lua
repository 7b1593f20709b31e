-- tick: take a slot of a rule, and append its tick.
-- KEYS[1] stream  [2] rules   ARGV rule, slot ms, last slot as the caller knows it ms, then the words of the entry (none:
-- the slot is passed over)   -> 1, or 0: another worker was faster, or it is not time yet
-- Atomic so that a slot is taken once, and not without its tick: where the entry is refused, the slot is given back.
local stream, rules = unpack(KEYS)
local rule, slot, known = ARGV[1], ARGV[2], ARGV[3]
local last, text = unpack(redis.call('HMGET', rules, rule, rule .. '\ttext'))
-- Without its text it is a rule that this server has lost, and its last slot with it.
if not text or (last or '0') ~= known or tonumber(slot) > now_ms() then return 0 end
redis.call('HSET', rules, rule, slot)
if #ARGV > 3 then
    local reply = redis.pcall('XADD', stream, '*', unpack(ARGV, 4))
    if type(reply) == 'table' and reply['err'] then
        redis.call('HSET', rules, rule, known)
        return reply
    end
end
return 1
