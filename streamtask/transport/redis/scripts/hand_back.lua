-- hand_back: park, due now, what an owner holds.
-- KEYS[1] stream  [2] retry index  [3] history
-- ARGV group, owner, first id to look at, least idle ms, all charged (0 or 1), number of kept ids, the kept ids, then
--     the started ids (charged as a crash when not all are)
-- -> { how many were parked, last id looked at or '' at the end }
-- Atomic because the entry must be parked, due and (un)charged, or none of it.
local stream, retry, history = unpack(KEYS)
local group, owner, first, idle, all_charged = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5] == '1'
local kept, started = {}, {}
local n = tonumber(ARGV[6])
for i = 7, 6 + n do kept[ARGV[i]] = true end
for i = 7 + n, #ARGV do started[ARGV[i]] = true end

local page
if idle > 0 then
    page = redis.call('XPENDING', stream, group, 'IDLE', idle, first, '+', 1000, owner)
else
    page = redis.call('XPENDING', stream, group, first, '+', 1000, owner)
end
local parked, now = 0, now_ms()
for _, p in ipairs(page) do
    local id = p[1]
    if not kept[id] then
        give(stream, group, '~parked', id)
        redis.call('ZADD', retry, now, id)
        if not all_charged and not started[id] then redis.call('HINCRBY', history, id .. ':u', 1) end
        parked = parked + 1
    end
end
return { parked, #page == 1000 and page[1000][1] or '' }
