-- replay_dead: hand a dead letter's entry to its group again, and to no other.
-- KEYS[1] dead letters  [2] stream  [3] dead-letter counts   ARGV dead id   -> new entry id, or nothing
-- Atomic so that replaying twice handles the event once: the letter and the new entry never stand side by side.
-- A removal of nothing: refused here (no permission), not after the entry was appended.
redis.call('XDEL', KEYS[1], '0-0')
local letter = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not letter then return false end
local group, entry = '', {}
for i = 1, #letter[2], 2 do
    local name, value = letter[2][i], letter[2][i + 1]
    if name == 'group' then group = value end
    if name == 'fields' then return redis.error_reply('TOOMANY the entry has more fields than a script can write') end
    if string.sub(name, 1, 6) == 'field:' and name ~= 'field:only' and name ~= 'field:replay' then
        entry[#entry + 1] = string.sub(name, 7)
        entry[#entry + 1] = value
    end
end
-- To a group that is gone it would be delivered never, and trimmed with the history.
local there = false
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[2])) do
    if fields_of(flat)['name'] == group then there = true end
end
if not there then return redis.error_reply("NOGROUP there is no group '" .. group .. "' that could read it") end
local id = redis.call('XADD', KEYS[2], '*', 'only', group, 'replay', ARGV[1], unpack(entry))
redis.call('XDEL', KEYS[1], ARGV[1])
redis.call('HINCRBY', KEYS[3], group, -1)
return id
