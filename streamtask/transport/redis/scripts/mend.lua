-- mend: bring the indexes of parked and waiting entries in line with the pending list, which is the truth.
-- KEYS[1] stream  [2] retry index  [3] waits   ARGV group, prefix of wait indexes, reserved owner, first id to look at
-- -> { missing index entries made, last id looked at or '' at the end }
-- An entry whose due time is lost is due now; a waiting one without an index entry is parked and looked at afresh.
local stream, retry, waits = unpack(KEYS)
local group, wait_prefix, owner, first = unpack(ARGV)
local page = redis.call('XPENDING', stream, group, first, '+', 1000, owner)
local pairs_waited = owner == '~waiting' and redis.call('SMEMBERS', waits) or {}

local function indexed(id)
    if owner == '~parked' then return redis.call('ZSCORE', retry, id) end
    for _, pair in ipairs(pairs_waited) do
        if redis.call('ZSCORE', wait_prefix .. string.gsub(pair, '\t([^\t]*)$', ':%1'), id) then return true end
    end
    return false
end

local mended, now = 0, now_ms()
for _, p in ipairs(page) do
    if not indexed(p[1]) then
        if owner ~= '~parked' then give(stream, group, '~parked', p[1]) end
        redis.call('ZADD', retry, now, p[1])
        mended = mended + 1
    end
end
return { mended, #page == 1000 and page[1000][1] or '' }
