-- register: make stream and group where they are missing, and grow the group's set of types.
-- KEYS[1] stream  [2] types of the group  [3] skipped  [4] floors  [5] seen  [6] history  [7] retry index  [8] waits
--     [9] who is through gates  [10] who queues
-- ARGV group, where a new group begins, prefix of wait indexes, then each "TYPE<tab>VERSION"
-- -> { created: 0 no, 1 new, 2 made again at its floor, the set, { type, first skipped id, ... } }
-- Atomic so that of two workers that find the group missing, one decides where it begins.
local stream, types, skipped, floors, seen, history, retry, waits, through, queued = unpack(KEYS)
local group, start, wait_prefix = unpack(ARGV, 1, 3)
local created = 0
local floor = redis.call('HGET', floors, group)
if not is_type(stream, 'stream') then return redis.error_reply('WRONGTYPE ' .. stream .. ' is not a stream') end
if floor and redis.call('XLEN', stream) == 0 then floor = '0' end
let_pass(floors)
local reply = redis.pcall('XGROUP', 'CREATE', stream, group, floor or start, 'MKSTREAM')
if reply['err'] then
    if not string.find(reply['err'], 'BUSYGROUP', 1, true) then return reply end
else
    created = floor and 2 or 1
    -- Of a group that vanished: its entries are delivered for the first time again. What still stood in an index would
    -- be counted by a claim, and found to be nothing.
    for _, pair in ipairs(redis.call('SMEMBERS', waits)) do
        redis.call('DEL', wait_prefix .. string.gsub(pair, '\t([^\t]*)$', ':%1'))
    end
    redis.call('DEL', history, retry, waits, through, queued)
    if not floor then
        local first = start == '0' and '0-0' or start
        if start == '$' then first = fields_of(redis.call('XINFO', 'STREAM', stream))['last-generated-id'] end
        redis.call('HSET', floors, group, first)
    end
end
redis.call('HSET', seen, group, string.format('%.0f', now_ms()))
local before_now = {}
for i = 4, #ARGV do
    if redis.call('SADD', types, ARGV[i]) == 1 then
        local kind = string.match(ARGV[i], '^(.*)\t')
        local first = redis.call('HGET', skipped, kind)
        if first then
            before_now[#before_now + 1] = kind
            before_now[#before_now + 1] = first
            redis.call('HDEL', skipped, kind, kind .. '\tn')
        end
    end
end
return { created, redis.call('SMEMBERS', types), before_now }
