-- ack: finish entries that were delivered once and leave no effects, if the caller still holds them.
-- KEYS[1] stream   ARGV group, owner, then their ids   -> index (from 0) and 'lost' for each of those that it does not
-- Atomic because XACK itself accepts any caller, also one whose lease has passed on.
local group, owner = ARGV[1], ARGV[2]
local ids = {}
for i = 3, #ARGV do ids[i - 2] = ARGV[i] end
local counts = held(KEYS[1], group, owner, ids)
local mine, told = {}, {}
for index = 1, #ids do
    local id = ids[index]
    if counts[id] == 1 then
        mine[#mine + 1] = id
    else
        told[#told + 1] = index - 1
        told[#told + 1] = 'lost'
    end
end
finish(KEYS[1], group, mine)
return told
