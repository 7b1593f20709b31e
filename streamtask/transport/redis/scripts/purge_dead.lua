-- purge_dead: remove dead letters for good.
-- KEYS[1] dead letters  [2] dead-letter counts   ARGV dead ids   -> removed
-- A script so that the counts stay true when two purge at once.
local removed = 0
for _, id in ipairs(ARGV) do
    local letter = redis.call('XRANGE', KEYS[1], id, id)[1]
    if letter then
        redis.call('XDEL', KEYS[1], id)
        redis.call('HINCRBY', KEYS[2], fields_of(letter[2])['group'] or '', -1)
        removed = removed + 1
    end
end
return removed
