-- lag: how many entries stand behind a position, counted (Redis 6.2 does not say, and 7.0 not after an XDEL).
-- KEYS[1] stream   ARGV last delivered id, most to count   -> { count or -1 when there are more, first id or '' }
local counted, first, low = 0, '', '(' .. ARGV[1]
local most = tonumber(ARGV[2])
local step = math.min(most, 1000)
while counted < most do
    local page = redis.call('XRANGE', KEYS[1], low, '+', 'COUNT', step)
    if #page > 0 and first == '' then first = page[1][1] end
    counted = counted + #page
    if #page < step then return { counted, first } end
    low = '(' .. page[step][1]
end
return { -1, first }
