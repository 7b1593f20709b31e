-- Shared by every script: the server's clock, the order of ids, the fence. Put before each script when it is loaded.
local function now_ms()
    local t = redis.call('TIME')
    return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Ids are `ms-seq` without leading zeros: of equal length they sort as text.
local function before(a, b)
    if #a == #b then return a < b end
    local a_ms, a_seq = string.match(a, '(%d+)-(%d+)')
    local b_ms, b_seq = string.match(b, '(%d+)-(%d+)')
    a_ms, b_ms = tonumber(a_ms), tonumber(b_ms)
    if a_ms ~= b_ms then return a_ms < b_ms end
    return tonumber(a_seq) < tonumber(b_seq)
end

local function after(id)
    local ms, seq = string.match(id, '(%d+)-(%d+)')
    -- The highest sequence there is, which a double cannot hold.
    if seq == '18446744073709551615' then return string.format('%.0f-0', tonumber(ms) + 1) end
    return ms .. '-' .. string.format('%.0f', tonumber(seq) + 1)
end

-- What the other keys of a stream begin with: the key of a lane, `{stream:NAME}:lane:PRIORITY`, is that itself.
local function tag(stream)
    return string.sub(stream, 1, 1) == '{' and stream or '{' .. stream .. '}'
end

-- The same of the stream that a lane is of: what all its lanes share begins with it.
local function home_tag(stream)
    return string.match(stream, '^({.-}):lane:') or tag(stream)
end

local function fields_of(flat)
    local map = {}
    for i = 1, #flat, 2 do map[flat[i]] = flat[i + 1] end
    return map
end

-- The fence: id -> delivery count of those ids that `owner` holds. One range from the lowest id to the highest; an id
-- that the range did not show is asked for singly, so that nothing is called lost that is not.
local function held(stream, group, owner, ids)
    local counts = {}
    local low, high = ids[1], ids[1]
    if not low then return counts end
    for i = 2, #ids do
        local id = ids[i]
        -- Mostly in the order of the stream.
        if before(high, id) then high = id elseif before(id, low) then low = id end
    end
    local found = redis.call('XPENDING', stream, group, low, high, #ids * 2 + 32, owner)
    for i = 1, #found do
        local entry = found[i]
        counts[entry[1]] = entry[4]
    end
    for i = 1, #ids do
        local id = ids[i]
        if not counts[id] then
            local entry = redis.call('XPENDING', stream, group, id, id, 1, owner)[1]
            if entry then counts[id] = entry[4] end
        end
    end
    return counts
end

-- Ack entries that are held.
local function finish(stream, group, ids)
    for i = 1, #ids, 1000 do
        redis.call('XACK', stream, group, unpack(ids, i, math.min(i + 999, #ids)))
    end
end

local function is_type(key, wanted)
    local kind = redis.call('TYPE', key)['ok']
    return kind == wanted or kind == 'none'
end

-- Give an entry to a reserved owner. JUSTID: the delivery count is not ours to change.
local function give(stream, group, owner, id)
    redis.call('XCLAIM', stream, group, owner, 0, id, 'JUSTID')
end

-- Forget all that is kept of an entry -> as HDEL. The fields are those of `keys.py`.
local function forget(history, id)
    return redis.pcall(
        'HDEL', history, id .. ':f', id .. ':u', id .. ':e', id .. ':s', id .. ':n', id .. ':p', id .. ':k')
end

-- Made by `gates.lua`, which is put behind this for scripts that may meet gates.
local gates

-- A server that is full refuses a script's first write if it may take memory, and after one that takes none it lets the
-- others pass. For housekeeping and settling, which make room. Changes nothing: no hash has such a field.
local function let_pass(hash)
    redis.pcall('HDEL', hash, '')
end

-- Free the debounce key of an event that waits no more.
local function free_key(debounced, event_id)
    local key = redis.call('HGET', debounced, 'e:' .. event_id)
    if key then redis.call('HDEL', debounced, 'e:' .. event_id, 'k:' .. key) end
end
