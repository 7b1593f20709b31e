-- trim: remove entries that every group has finished and that are too old or too many; checkpoint the groups.
-- KEYS[1] stream  [2] floors   ARGV longest age ms, most entries, most to look at in this call
-- -> { removed, 1 if there may be more to remove, else 0 }
-- Atomic so that no group can be made, or rewound, between the look at the groups and the cut.
local stream, floors = KEYS[1], KEYS[2]
local max_age, max_entries, batch = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local function previous(id)
    local ms, seq = string.match(id, '(%d+)-(%d+)')
    if seq ~= '0' then return ms .. '-' .. string.format('%.0f', tonumber(seq) - 1) end
    if ms == '0' then return '0-0' end
    return string.format('%.0f', tonumber(ms) - 1) .. '-18446744073709551615'
end

if redis.call('EXISTS', stream) == 0 then return { 0, 0 } end
local groups, floor, passed = {}, nil, nil
let_pass(floors)
local vanished = fields_of(redis.call('HGETALL', floors))
vanished['~sweep:'] = nil
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local g = fields_of(flat)
    local low = after(g['last-delivered-id'])
    if g['pending'] > 0 then
        local first = redis.call('XPENDING', stream, g['name'])[2]
        if before(first, low) then low = first end
    end
    groups[#groups + 1] = g
    if not floor or before(low, floor) then floor = low end
    if not passed or before(g['last-delivered-id'], passed) then passed = g['last-delivered-id'] end
    redis.call('HSET', floors, g['name'], previous(low))
    vanished[g['name']] = nil
end
-- A group that vanished is made again at its checkpoint, and needs everything behind it.
for _, position in pairs(vanished) do
    local low = after(position)
    if not floor or before(low, floor) then floor = low end
    if not passed or before(position, passed) then passed = position end
end

-- `wanted`: everything below it is too old, or more than we keep.
local old = string.format('%.0f-0', math.max(0, now_ms() - max_age))
local wanted = old
local excess = redis.call('XLEN', stream) - max_entries
if excess > 0 then
    local page = redis.call('XRANGE', stream, '-', '+', 'COUNT', math.min(excess, batch))
    local bound = after(page[#page][1])
    if before(wanted, bound) then wanted = bound end
end
local bound = wanted
if floor and before(floor, wanted) then bound = floor end
local removed = redis.call('XTRIM', stream, 'MINID', '=', bound)
if bound == wanted or not passed then return { removed, removed >= batch and 1 or 0 } end

-- An entry that is pending for long holds the floor. Above it, take out singly what every group has acked. The cursor
-- is where the last call ended, and how many entries stand below it: they count among those that we keep.
local cursor, below = string.match(redis.call('HGET', floors, '~sweep:') or '', '^(%S+) (%d+)$')
if not cursor or before(cursor, bound) then
    cursor, below = bound, 0
else
    below = math.max(0, below - removed)
end
excess = redis.call('XLEN', stream) - max_entries - below
local page = redis.call('XRANGE', stream, cursor, passed, 'COUNT', batch)
local more, busy = #page == batch, {}
if #page > 0 then
    for _, g in ipairs(groups) do
        if g['pending'] > 0 then
            -- All of them: an entry that somebody has deleted may be pending too, and must not crowd out another.
            local low, high = page[1][1], page[#page][1]
            for _, p in ipairs(redis.call('XPENDING', stream, g['name'], low, high, g['pending'])) do
                busy[p[1]] = true
            end
        end
    end
end
for i, entry in ipairs(page) do
    local id = entry[1]
    if i > excess and not before(id, old) then
        more = false
        break
    end
    cursor = after(id)
    if busy[id] then below = below + 1 else removed = removed + redis.call('XDEL', stream, id) end
end
if more then
    redis.call('HSET', floors, '~sweep:', cursor .. ' ' .. string.format('%.0f', below))
else
    redis.call('HDEL', floors, '~sweep:')
end
return { removed, more and 1 or 0 }
