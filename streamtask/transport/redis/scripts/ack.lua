-- ack: finish entries that leave no effects, if the caller still holds them.
-- KEYS[1] stream   ARGV group, owner, then id, delivery count for each   -> indexes (from 0) of the lost ones
-- Atomic because XACK itself accepts any caller, also one whose lease has passed on.
local group, owner = ARGV[1], ARGV[2]
local ids = {}
for i = 3, #ARGV, 2 do ids[#ids + 1] = ARGV[i] end
local counts = held(KEYS[1], group, owner, ids)
local mine, lost = {}, {}
for index, id in ipairs(ids) do
    if counts[id] == tonumber(ARGV[2 * index + 2]) then mine[#mine + 1] = id else lost[#lost + 1] = index - 1 end
end
for i = 1, #mine, 1000 do
    redis.call('XACK', KEYS[1], group, unpack(mine, i, math.min(i + 999, #mine)))
end
return lost
