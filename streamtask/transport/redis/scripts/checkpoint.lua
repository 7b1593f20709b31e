-- checkpoint: keep what a handler has come to, if the caller still holds the entry.
-- KEYS[1] stream  [2] history  [3] where it is told to those who watch, if it is
-- ARGV group, owner, id, delivery count, field: ':s' the state or ':p' progress, its value [, number of the state]
-- -> 1 kept, 0 lease lost
-- Atomic because a late owner would put its own past in place of what its successor has come to.
local group, owner, id, count = unpack(ARGV, 1, 4)
if held(KEYS[1], group, owner, { id })[id] ~= tonumber(count) then return 0 end
if ARGV[7] then
    -- A state that comes late, after it was asked for again: it is kept, or a later one is.
    local by, number = string.match(redis.call('HGET', KEYS[2], id .. ':n') or '', '^(%d+) (%d+)$')
    if by == count and tonumber(number) >= tonumber(ARGV[7]) then return 1 end
end
-- A handler that could not go on because the server is full would never make room.
let_pass(KEYS[2])
redis.call('HSET', KEYS[2], id .. ARGV[5], ARGV[6])
if ARGV[7] then redis.call('HSET', KEYS[2], id .. ':n', count .. ' ' .. ARGV[7]) end
if KEYS[3] then
    -- For people: what cannot be told must not keep a handler from going on.
    redis.pcall('XADD', KEYS[3], 'MAXLEN', 1, '*', 'p', ARGV[6])
    redis.pcall('PEXPIRE', KEYS[3], 3600000)
end
return 1
