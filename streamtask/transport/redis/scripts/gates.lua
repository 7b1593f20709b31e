-- Shared by the scripts that may meet gates: put between the head and such a script.
--
-- A gate lets so many entries of one key through at a time; the others queue behind it, owned by `~queued`. Whoever is
-- let through from a queue is parked, due now. An ordered gate lets one through, in the order of the stream, which
-- keeps its place until it is acked; another one's place is given up, too, by what is parked for later.
--
-- {stream}:gates:G and {stream}:queued:G say who is through and who queues: all have the score 0, so that they stand in
-- the order of their gates, and of their ids within a gate. "ID:k" in the history is the gate that an entry has come to:
-- `o` (ordered) or `c`, its limit, and a hash of its name and the entry's key.
function gates(stream, group, retry, history)
    local through, queued = tag(stream) .. ':gates:' .. group, tag(stream) .. ':queued:' .. group
    local self = { through = through, queued = queued }

    -- An entry at a gate. Ids sort as text once they are of one length.
    local function place(gate, id)
        local ms, seq = string.match(id, '(%d+)-(%d+)')
        return gate .. ' ' .. string.rep('0', 20 - #ms) .. ms .. '-' .. string.rep('0', 20 - #seq) .. seq
    end

    -- The gate and the id in a place.
    function self.parse(found)
        local gate, ms, seq = string.match(found, '^(%x+) 0*(%d+)%-0*(%d+)$')
        return gate, ms .. '-' .. seq
    end

    local function bounds(gate)
        return '[' .. gate .. ' ', '(' .. gate .. '!'
    end

    -- The gate that an entry has come to, or nil.
    function self.known(id)
        local text = redis.call('HGET', history, id .. ':k')
        local kind, limit, gate = string.match(text or '', '^(%l)(%d+) (%x+)$')
        return kind and { ordered = kind == 'o', limit = tonumber(limit), gate = gate, text = text }
    end

    -- Park one who queues, due now, and let it through -> whether it was there to be let. One whose
    -- gate is not known any more comes to it again when it is taken up.
    local function let_through(found, id, known)
        if not redis.call('XPENDING', stream, group, id, id, 1, '~queued')[1] then return false end
        -- Of an entry that was deleted from the stream, newer servers forget that it was pending.
        if #redis.call('XCLAIM', stream, group, '~parked', 0, id, 'JUSTID') == 0 then return false end
        if known then redis.call('ZADD', through, 0, found) end
        redis.call('ZADD', retry, now_ms(), id)
        return true
    end

    -- Let through who queues, as far as there is room -> how many.
    function self.admit(gate)
        local low, high = bounds(gate)
        local n = 0
        while true do
            local found = redis.call('ZRANGEBYLEX', queued, low, high, 'LIMIT', 0, 1)[1]
            if not found then return n end
            local _, id = self.parse(found)
            local known = self.known(id)
            if known and redis.call('ZLEXCOUNT', through, low, high) >= known.limit then return n end
            if let_through(found, id, known) then n = n + 1 end
            redis.call('ZREM', queued, found)
        end
    end

    -- An entry gives its place up -> whether another one was let through. Not for good: an ordered one keeps it.
    function self.leave(id, for_good)
        local known = self.known(id)
        if not known or (known.ordered and not for_good) then return false end
        redis.call('ZREM', through, place(known.gate, id))
        return self.admit(known.gate) > 0
    end

    -- Put an entry into the queue of its gate -> 1, or 0 where it stood there.
    function self.queue(known, id)
        return redis.call('ZADD', queued, 0, place(known.gate, id))
    end

    -- Let an entry through its gate, or queue it -> whether it is through. Whoever came before it goes first.
    function self.enter(known, id)
        local low, high = bounds(known.gate)
        local here = place(known.gate, id)
        if redis.call('ZSCORE', through, here) then return true end
        local first = redis.call('ZRANGEBYLEX', queued, low, high, 'LIMIT', 0, 1)[1]
        if not first and redis.call('ZLEXCOUNT', through, low, high) < known.limit then
            redis.call('ZADD', through, 0, here)
            return true
        end
        give(stream, group, '~queued', id)
        redis.call('ZADD', queued, 0, here)
        return false
    end

    -- What a caller knows of its gates: for each its name, `o` or `c`, limit, length of the path to the key, the path,
    -- number of types, the types. The first is the strictest.
    function self.declared(words, at)
        local list = {}
        local function word()
            at = at + 1
            return words[at - 1]
        end
        local function several()
            local found = {}
            for i = 1, tonumber(word()) do found[i] = word() end
            return found
        end
        while at <= #words do
            list[#list + 1] = { name = word(), kind = word(), limit = word(), path = several(), types = several() }
        end
        return list
    end

    local function is_json(entry)
        local kind = entry['content_type'] or 'application/json'
        return entry['envelope'] and not entry['content_encoding'] and string.find(kind, '^application/json')
    end

    -- The gate of a type, and the key of an event that goes through it.
    local function key_in(envelope, declared)
        for _, each in ipairs(declared) do
            for _, type_ in ipairs(each.types) do
                if type_ == envelope['event_type'] then
                    if #each.path == 0 then return each, nil end
                    local value = envelope['payload']
                    for _, name in ipairs(each.path) do
                        if type(value) ~= 'table' then return each, nil end
                        value = value[name]
                    end
                    return each, value
                end
            end
        end
    end

    -- The gate of an entry, or nil where it goes through none. What cannot be read here (an encoded envelope, or none)
    -- has the empty key of the strictest gate, and so has what has no key.
    function self.of(fields, declared)
        local entry = fields_of(fields)
        if entry['only'] and entry['only'] ~= group then return nil end
        local each, value = declared[1], nil
        if is_json(entry) then
            local went, envelope = pcall(cjson.decode, entry['envelope'])
            if went and type(envelope) == 'table' and type(envelope['event_type']) == 'string' then
                each, value = key_in(envelope, declared)
                if not each then return nil end
            end
        end
        local kind, key = type(value), ''
        if kind == 'number' then key = string.format('%.17g', value) end
        if kind == 'string' or kind == 'boolean' then key = tostring(value) end
        local gate = redis.sha1hex(each.name .. '\t' .. key)
        local known = { ordered = each.kind == 'o', limit = tonumber(each.limit), gate = gate }
        known.text = each.kind .. each.limit .. ' ' .. gate
        return known
    end

    return self
end
