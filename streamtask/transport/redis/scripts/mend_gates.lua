-- mend_gates: see to it that nobody queues for ever: behind one that is gone, or without being in the queue.
-- KEYS[1] stream  [2] retry index  [3] history
-- ARGV group, what is looked through: 'through' or 'queued' (the indexes), or 'pending' (the truth), where to begin
-- -> { how much was mended, where to go on or '' at the end }
local stream, retry, history = unpack(KEYS)
local group, what, first = unpack(ARGV)
local gate = gates(stream, group, retry, history)
local mended, open = 0, {}

local function mend_index(index, owner)
    local page = redis.call('ZRANGEBYLEX', index, first, '+', 'LIMIT', 0, 1000)
    for _, found in ipairs(page) do
        local at, id = gate.parse(found)
        if not redis.call('XPENDING', stream, group, id, id, 1, unpack(owner))[1] then
            mended = mended + redis.call('ZREM', index, found)
            open[at] = true
        end
    end
    return #page == 1000 and '(' .. page[1000] or ''
end

local function mend_queue()
    local page = redis.call('XPENDING', stream, group, first, '+', 1000, '~queued')
    for _, p in ipairs(page) do
        local id = p[1]
        local known = gate.known(id)
        if known then
            mended = mended + gate.queue(known, id)
            open[known.gate] = true
        else
            -- Who takes it up finds its gate again.
            give(stream, group, '~parked', id)
            redis.call('ZADD', retry, now_ms(), id)
            mended = mended + 1
        end
    end
    return #page == 1000 and '(' .. page[1000][1] or ''
end

let_pass(history)
local on
if what == 'through' then
    on = mend_index(gate.through, {})
elseif what == 'queued' then
    on = mend_index(gate.queued, { '~queued' })
else
    on = mend_queue()
end
for at in pairs(open) do mended = mended + gate.admit(at) end
return { mended, on }
