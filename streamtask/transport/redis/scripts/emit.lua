-- emit: finish entries that were delivered once and emit one plain event or nothing, if the caller still holds them. What
--     most outcomes are: `settle` does the same, and in twice the time.
-- KEYS[1] stream  [2] history  [3..] streams that are emitted to
-- ARGV group, owner, then for each: id, index of the stream among those that are emitted to (0 for none), envelope
-- -> index (from 0) and 'lost' or 'failed: ' and why for each that is not finished; it is as it was
-- In the order that `settle` tells of: an ack of nothing, a write that lets the others pass, the new entries, the acks.
local stream, history = KEYS[1], KEYS[2]
local group, owner = ARGV[1], ARGV[2]
local ids = {}
for i = 3, #ARGV, 3 do ids[#ids + 1] = ARGV[i] end
local counts = held(stream, group, owner, ids)

redis.call('XACK', stream, group, '0-0')
let_pass(history)
local mine, told = {}, {}
for index = 1, #ids do
    local id = ids[index]
    local verdict
    if counts[id] ~= 1 then
        verdict = 'lost'
    else
        local target = tonumber(ARGV[3 * index + 1])
        if target > 0 then
            local reply = redis.pcall('XADD', KEYS[2 + target], '*', 'envelope', ARGV[3 * index + 2])
            if type(reply) == 'table' then verdict = 'failed: XADD ' .. KEYS[2 + target] .. ': ' .. reply['err'] end
        end
    end
    if verdict then
        told[#told + 1] = index - 1
        told[#told + 1] = verdict
    else
        mine[#mine + 1] = id
        -- An id named twice is ours only once.
        counts[id] = nil
    end
end
finish(stream, group, mine)
return told
