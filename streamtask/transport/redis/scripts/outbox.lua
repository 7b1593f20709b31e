-- outbox: the next page of what waits to be published elsewhere, for one relay at a time.
-- KEYS[1] outbox  [2] whose turn it is   ARGV relay, id to read after, how many, ms that the turn lasts
-- -> the entries, none at the end (the turn is over); or nothing, while another relay is at it
-- Atomic so that no entry is left behind: what is put in while a relay has its turn stands there for its next page.
local turn = redis.call('GET', KEYS[2])
if turn and turn ~= ARGV[1] then return false end
local page = redis.call('XRANGE', KEYS[1], '(' .. ARGV[2], '+', 'COUNT', ARGV[3])
if #page == 0 then
    redis.call('DEL', KEYS[2])
else
    -- First, so that a full server lets the other pass: publishing makes room. Nor is the key deleted and made again: of a
    -- slot that is on its way to another node, keys that are not here cannot be made here.
    redis.call('PERSIST', KEYS[2])
    redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[4])
end
return page
