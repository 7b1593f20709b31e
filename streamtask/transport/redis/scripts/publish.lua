-- publish: append one event, or schedule it; at most once for its dedup key or, when tried again, for its event id.
-- KEYS[1] stream  [2] dedup mark  [3] delayed index  [4] delayed bodies  [5] which of them stand for a debounce key; only
--     with such a key
-- ARGV event id, due: '' now, 'in:MS' or 'at:MS', dedup window ms (0: none), again (0 or 1), debounce key, then the entry's
--     words
-- -> entry id; the event id where it is scheduled or has a dedup mark: that of the event which stands under the mark
-- Atomic so that of two publishers with one key only one stores. `again` looks through the last ten minutes: the id
-- of an event stands in its bytes, so nothing needs to be kept for the common case. An event with a debounce key takes the
-- place of the one that waits under it: both or neither would be two runs, or none.
local stream, mark, delayed, bodies, debounced = unpack(KEYS)
local event_id, due, window, again, key = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1', ARGV[5]

-- A payload may mention the id of another event: what holds the id is looked at closely.
local function is_of_event(entry)
    local body = entry['envelope'] or ''
    if entry['event_id'] == event_id then return true end
    if not string.find(body, event_id, 1, true) then return false end
    local unpacker = entry['content_type'] and cmsgpack.unpack or cjson.decode
    local read, envelope = pcall(unpacker, body)
    return read and type(envelope) == 'table' and envelope['event_id'] == event_id
end

local function stored_already()
    if redis.call('HEXISTS', bodies, event_id) == 1 then return event_id end
    local oldest, highest, looked = string.format('%.0f-0', now_ms() - 600000), '+', 0
    while looked < 50000 do
        local page = redis.call('XREVRANGE', stream, highest, oldest, 'COUNT', 500)
        for _, entry in ipairs(page) do
            if is_of_event(fields_of(entry[2])) then return entry[1] end
        end
        if #page < 500 then return nil end
        looked = looked + 500
        highest = '(' .. page[500][1]
    end
    return nil
end

-- A replica that has what is written here has what was found, too: WAIT counts from the last write.
local function found(earlier)
    let_pass(bodies)
    redis.pcall('HSET', bodies, '', '')
    redis.pcall('HDEL', bodies, '')
    return earlier
end

if window > 0 then
    local earlier = redis.call('GET', mark)
    if earlier then return found(earlier) end
end
if again then
    local earlier = stored_already()
    if earlier then return found(window > 0 and event_id or earlier) end
end
local stored
if due == '' then
    stored = redis.call('XADD', stream, '*', unpack(ARGV, 6))
else
    local way, ms = string.match(due, '^(%a+):(-?%d+)$')
    local moment = tonumber(ms) + (way == 'in' and now_ms() or 0)
    local earlier
    if debounced then
        -- What may be refused comes first: a note that says nothing by itself, and a removal of nothing.
        earlier = redis.call('HGET', debounced, 'k:' .. key)
        redis.call('HSET', debounced, 'e:' .. event_id, key)
        redis.call('ZREM', delayed, '')
    end
    -- The body last: it is what `stored_already` goes by, and without its place in the index it would be due never.
    redis.call('ZADD', delayed, moment, event_id)
    redis.call('HSET', bodies, event_id, cmsgpack.pack({ unpack(ARGV, 6) }))
    if debounced then redis.call('HSET', debounced, 'k:' .. key, event_id) end
    if earlier and earlier ~= event_id then
        redis.call('ZREM', delayed, earlier)
        redis.call('HDEL', bodies, earlier)
        redis.call('HDEL', debounced, 'e:' .. earlier)
    end
    stored = event_id
end
if window == 0 then return stored end
redis.call('SET', mark, event_id, 'PX', window)
return event_id
