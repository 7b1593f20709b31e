-- stand: how far a rule is.
-- KEYS[1] rules   ARGV rule, its timetable as text, 1: the worker that asks has just started
-- -> { now ms, last slot ms (0: none), ms since when the text stands (0: another one does) }
-- Atomic so that of two workers that bring a new text one says when it begins. A worker that was there before does not
-- put its old text back: two versions would take turns, and neither ever be due.
local rules = KEYS[1]
local rule, text, starts = ARGV[1], ARGV[2], ARGV[3] == '1'
local now = now_ms()
local stamp = string.format('%.0f', now)
local last, stands, begun, seen =
    unpack(redis.call('HMGET', rules, rule, rule .. '\ttext', rule .. '\tbegun', rule .. '\tseen'))

-- Rules that no worker has had for thirty days.
local function forget_old()
    local found = redis.call('HGETALL', rules)
    for i = 1, #found, 2 do
        local name = string.match(found[i], '^(.*)\tseen$')
        if name and now - tonumber(found[i + 1]) > 2592000000 then
            redis.call('HDEL', rules, name, name .. '\ttext', name .. '\tbegun', name .. '\tseen')
        end
    end
end

if not stands or (starts and stands ~= text) then
    redis.call('HSET', rules, rule .. '\ttext', text, rule .. '\tbegun', stamp, rule .. '\tseen', stamp)
    stands, begun, seen = text, stamp, stamp
    forget_old()
end
if stands ~= text then return { now, tonumber(last or 0), 0 } end
if now - tonumber(seen or 0) > 60000 then redis.call('HSET', rules, rule .. '\tseen', stamp) end
return { now, tonumber(last or 0), tonumber(begun) }
