-- renew: reset the idle time of what the caller still holds.
-- KEYS[1] stream   ARGV group, owner, then id, delivery count for each   -> indexes (from 0) of the lost ones
-- Atomic because a blind XCLAIM by a late owner would steal the entry back from its successor.
local group, owner = ARGV[1], ARGV[2]
local ids = {}
for i = 3, #ARGV, 2 do ids[#ids + 1] = ARGV[i] end
local counts = held(KEYS[1], group, owner, ids)
local mine, lost = {}, {}
for index, id in ipairs(ids) do
    if counts[id] == tonumber(ARGV[2 * index + 2]) then mine[#mine + 1] = id else lost[#lost + 1] = index - 1 end
end
for i = 1, #mine, 1000 do
    local command = { 'XCLAIM', KEYS[1], group, owner, 0 }
    for j = i, math.min(i + 999, #mine) do command[#command + 1] = mine[j] end
    command[#command + 1] = 'JUSTID'
    redis.call(unpack(command))
end
return lost
