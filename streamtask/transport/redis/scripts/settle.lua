-- settle: commit a batch of outcomes of one owner in one group; each is fenced and atomic by itself.
-- KEYS[1] stream  [2] retry index  [3] history  [4] dead letters  [5] dead-letter counts  [6] skipped  [7] waits
--     [8] types of the group  [9..] streams that are emitted to
-- ARGV group, owner, prefix of marks, prefix of wait indexes, 1 if something may be kept of an entry that was delivered
--     once (else 0), number of outcomes, then for each: verb, id, delivery count and
--     done     nothing more: no effects
--     emit     index of its stream among those that are emitted to, envelope: one event that has no other field
--     effects  mark ('' for none), window ms, replace (0 or 1), number of emits, for each: index of its stream, delay
--              ms ('' for none), event id, number of field words, the words
--     retry    delay ms, failed (0 or 1), error
--     release  delay ms, charged as a crash (0 or 1)
--     result   event id, ttl ms, result, then as effects
--     step     workflow, ttl ms, name of the step, its state, 1 if there is a result of the workflow (else 0), and then
--              event id, ttl ms, result; 1 if it is a member of a group (else 0), and then group, index, size, value,
--              number of emits, for each as above, 1 and a result or 0; last 1, and then as result, or 0, and then as
--              effects
--     dead     number of field words, the words, number of emits, for each as above, 1 if there is a result (else 0), and
--              then event id, ttl ms, result; 1 if there is a step (else 0), and then as step down to its group
--     skip     type ('' for an entry of another group), to be noted (0 or 1), version, timeout ms
--     wait     type, version, timeout ms
--     together  mark, window ms, replace, number of others, for each: id, delivery count, mark, window ms, replace; then
--              the emits as above
-- -> for each: 'ok', 'lost', 'duplicate', 'torn' (nothing was changed: of those together one is lost or a duplicate),
--     or 'failed: ' and why (nothing was changed, the entry stays pending); loaded with gates.lua, one more: 1 if an
--     entry was let through a gate, which is due now (else 0)
--
-- Redis does not roll a script back. So, first an ack of nothing, which fails where the acks at the end would (no
-- permission), and a write that a full server does not refuse and after which it lets the others pass; then for each
-- outcome the fence, and new entries, taken back if one of them fails; the acks last, all in one, whatever went wrong
-- with one of the outcomes.
local stream, retry, history, dead, counts_key, skipped, waits, types = unpack(KEYS, 1, 8)
local group, owner, mark_prefix, wait_prefix = unpack(ARGV, 1, 4)
local kept = ARGV[5] == '1'
local at = 7

local function word()
    local value = ARGV[at]
    at = at + 1
    return value
end

local function words(n)
    local list = {}
    for i = 1, n do list[i] = ARGV[at + i - 1] end
    at = at + n
    return list
end

local function emits(n)
    local list = {}
    for i = 1, n do
        local key = KEYS[8 + tonumber(word())]
        list[i] = { key = key, delay = word(), event_id = word(), fields = words(tonumber(word())) }
    end
    return list
end

local function result()
    return { name = word(), ttl = word(), body = word() }
end

local function step()
    local s = { workflow = word(), ttl = word(), name = word(), state = word() }
    if word() == '1' then s.result = result() end
    if word() == '1' then
        s.member = { group = word(), index = word(), size = tonumber(word()), value = word() }
        s.member.emits = emits(tonumber(word()))
        if word() == '1' then s.member.result = result() end
    end
    return s
end

local ids = {}

local function parse()
    local o = { verb = word(), id = word(), count = tonumber(word()) }
    if o.verb == 'step' then
        o.step = step()
        o.verb = word() == '1' and 'result' or 'effects'
    end
    if o.verb == 'result' then
        o.verb, o.result = 'effects', result()
    end
    if o.verb == 'done' then
        o.emits = {}
    elseif o.verb == 'emit' then
        o.emits = { { key = KEYS[8 + tonumber(word())], delay = '', fields = { 'envelope', word() } } }
    elseif o.verb == 'effects' then
        o.mark, o.window, o.replace = word(), word(), word()
        o.emits = emits(tonumber(word()))
    elseif o.verb == 'retry' then
        o.delay, o.failed, o.error = tonumber(word()), word(), word()
    elseif o.verb == 'release' then
        o.delay, o.charged = tonumber(word()), word()
    elseif o.verb == 'dead' then
        o.fields = words(tonumber(word()))
        o.emits = emits(tonumber(word()))
        if word() == '1' then o.result = result() end
        if word() == '1' then o.step = step() end
    elseif o.verb == 'skip' then
        o.type, o.noted, o.version, o.timeout = word(), word(), word(), tonumber(word())
    elseif o.verb == 'wait' then
        o.type, o.version, o.timeout = word(), word(), tonumber(word())
    elseif o.verb == 'together' then
        o.mark, o.window, o.replace = word(), word(), word()
        o.members = { o }
        for i = 1, tonumber(word()) do
            local other = { id = word(), count = tonumber(word()), mark = word(), window = word(), replace = word() }
            o.members[i + 1] = other
            ids[#ids + 1] = other.id
        end
        o.emits = emits(tonumber(word()))
    else
        error('unknown verb ' .. tostring(o.verb))
    end
    return o
end

local outcomes = {}
for i = 1, tonumber(ARGV[6]) do
    outcomes[i] = parse()
    ids[#ids + 1] = outcomes[i].id
end
local counts = held(stream, group, owner, ids)

local now = now_ms()
redis.call('XACK', stream, group, '0-0')
let_pass(history)
local acked = {}

-- Leave a gate, for good or (an entry that is not to come again at once) unless it keeps its place. An error would
-- double the effects that stand already; a gate that was not opened is found by `mend_gates`.
local gate, let_in = gates and gates(stream, group, retry, history), 0
local function leave(id, for_good)
    local went, through = pcall(gate.leave, id, for_good)
    if went and through then let_in = 1 end
end

local function ack(o)
    -- What was delivered once has mostly no history. Refused, it leaves some bytes; as an error, it would double the
    -- effects.
    if o.count > 1 or kept then
        if gate then leave(o.id, true) end
        forget(history, o.id)
    end
    acked[#acked + 1] = o.id
    return 'ok'
end

local checked = {}
local function is_stream(key)
    if checked[key] == nil then checked[key] = is_type(key, 'stream') end
    return checked[key]
end

local function failed(reply)
    return 'failed: ' .. tostring(reply['err'])
end

-- A command that may be refused -> its reply, or nil and why not: the server does not say of what its reply speaks.
local function try(command, key, ...)
    local reply = redis.pcall(command, key, ...)
    if type(reply) == 'table' and reply['err'] then
        return nil, { err = command .. ' ' .. key .. ': ' .. reply['err'] }
    end
    return reply
end

-- Append or schedule one entry -> nil and why not, or how to take it back.
local function store(entry)
    if entry.delay == '' then
        local id, refused = try('XADD', entry.key, '*', unpack(entry.fields))
        return id and { { 'XDEL', entry.key, id } }, refused
    end
    local delayed, bodies = tag(entry.key) .. ':delayed', tag(entry.key) .. ':delayed:body'
    local undo = { { 'ZREM', delayed, entry.event_id }, { 'HDEL', bodies, entry.event_id } }
    local _, refused = try('ZADD', delayed, now + tonumber(entry.delay), entry.event_id)
    if refused then return nil, refused end
    _, refused = try('HSET', bodies, entry.event_id, cmsgpack.pack(entry.fields))
    if not refused then return undo end
    redis.call(unpack(undo[1]))
    return nil, refused
end

local function take_back(undos)
    for _, command in ipairs(undos) do redis.call(unpack(command)) end
end

-- Store a result, and tell those who wait that it is there -> nil and why not, or how to take it back.
local news, has_news = home_tag(stream) .. ':results', false
local function keep(found)
    local key = home_tag(stream) .. ':result:' .. found.name
    local _, refused = try('SET', key, found.body, 'PX', found.ttl)
    if refused then return nil, refused end
    _, refused = try('XADD', news, 'MAXLEN', '~', 10000, '*', 'id', found.name)
    if refused then
        redis.call('DEL', key)
        return nil, refused
    end
    has_news = true
    return { { 'DEL', key } }
end

-- Store several entries, or none -> nil and why not, or how to take them back.
local function append(entries)
    for _, entry in ipairs(entries) do
        if not is_stream(entry.key) then return nil, { err = 'WRONGTYPE ' .. entry.key } end
    end
    local undos = {}
    for _, entry in ipairs(entries) do
        local undo, refused = store(entry)
        if not undo then
            take_back(undos)
            return nil, refused
        end
        for _, command in ipairs(undo) do undos[#undos + 1] = command end
    end
    return undos
end

local function states_of(s)
    return home_tag(stream) .. ':workflow:' .. s.workflow
end

-- Whether the call has been done by another entry, one that was published twice or handed to the group again.
local function is_over(s)
    return s and redis.call('HGET', states_of(s), s.name) == 'done'
end

-- Add the command that takes one thing back, or several -> what was refused, if anything.
local function note_undo(undos, undo, refused)
    for _, command in ipairs(undo or {}) do undos[#undos + 1] = command end
    return refused
end

-- Set a field of a hash that runs out -> what was refused, if anything; and whether the field is new.
local function set_field(undos, key, field, value, ttl)
    local before, refused = try('HGET', key, field)
    if refused then return refused end
    local added
    added, refused = try('HSET', key, field, value)
    if refused then return refused end
    note_undo(undos, { before and { 'HSET', key, field, before } or { 'HDEL', key, field } })
    refused = select(2, try('PEXPIRE', key, ttl))
    return refused, added == 1
end

-- Fail, if that has to be, before anything is written: `append` finds the answer.
local function look_at_streams(entries)
    for _, entry in ipairs(entries) do is_stream(entry.key) end
end

-- What the end of a call means to its workflow -> nil and why not, or how to take it back.
local function go_on(s)
    local undos, m = {}, s.member
    local refused, is_new = set_field(undos, states_of(s), s.name, s.state, s.ttl)
    if s.result and not refused then refused = note_undo(undos, keep(s.result)) end
    if m and not refused then
        local values = home_tag(stream) .. ':group:' .. m.group
        refused, is_new = set_field(undos, values, m.index, m.value, s.ttl)
        local n = 0
        if not refused then n, refused = try('HLEN', values) end
        if not refused and is_new and n == m.size then
            refused = note_undo(undos, append(m.emits))
            if m.result and not refused then refused = note_undo(undos, keep(m.result)) end
        end
    end
    if not refused then return undos end
    take_back(undos)
    return nil, refused
end

-- Give an entry to a reserved owner, count that, and send the commands that index it: all of it, or none.
local function hand_over(to, id, counter, ...)
    give(stream, group, to, id)
    local _, refused
    if counter then _, refused = try('HINCRBY', history, id .. counter, 1) end
    if refused then
        give(stream, group, owner, id)
        return failed(refused)
    end
    for _, command in ipairs({ ... }) do
        _, refused = try(unpack(command))
        if refused then
            if counter then redis.call('HINCRBY', history, id .. counter, -1) end
            give(stream, group, owner, id)
            return failed(refused)
        end
    end
    return 'ok'
end

local function park(id, delay, counter)
    if not is_type(retry, 'zset') or not is_type(history, 'hash') then
        return 'failed: WRONGTYPE ' .. retry .. ' or ' .. history
    end
    local verdict = hand_over('~parked', id, counter, { 'ZADD', retry, now + delay, id })
    if gate and verdict == 'ok' and delay > 0 then leave(id, false) end
    return verdict
end

local verbs = {}

-- Store entries and what else there is of an outcome, or nothing -> nil and why not, or true.
local function commit(o, entries, mark)
    if o.step and o.step.member then look_at_streams(o.step.member.emits) end
    local undos, refused = append(entries)
    if refused then return nil, refused end
    if o.result then
        local undo
        undo, refused = keep(o.result)
        if undo then undos[#undos + 1] = undo[1] end
    end
    if o.step and not refused then refused = note_undo(undos, go_on(o.step)) end
    if mark and not refused then refused = select(2, try('SET', mark, o.id, 'PX', o.window)) end
    if not refused then return true end
    take_back(undos)
    return nil, refused
end

function verbs.emit(o, mark)
    local _, refused = commit(o, o.emits, mark)
    return refused and failed(refused) or ack(o)
end

verbs.done = verbs.emit

function verbs.effects(o)
    if is_over(o.step) then
        ack(o)
        return 'duplicate'
    end
    if o.mark == '' then return verbs.emit(o) end
    local mark = mark_prefix .. o.mark
    if o.replace == '0' and redis.call('EXISTS', mark) == 1 then
        ack(o)
        return 'duplicate'
    end
    return verbs.emit(o, mark)
end

-- Nil where all members are held and none is a duplicate; else what to answer.
local function torn(members)
    local here, duplicate = 0, false
    for _, each in ipairs(members) do
        if counts[each.id] == each.count then here = here + 1 end
        local checked_mark = each.mark ~= '' and each.replace == '0'
        duplicate = duplicate or checked_mark and redis.call('EXISTS', mark_prefix .. each.mark) == 1
    end
    if here == 0 then return 'lost' end
    if here < #members or duplicate then return 'torn' end
end

function verbs.together(o)
    local answer = torn(o.members)
    if answer then return answer end
    local undos, refused = append(o.emits)
    if refused then return failed(refused) end
    for _, each in ipairs(o.members) do
        if each.mark ~= '' then
            local mark = mark_prefix .. each.mark
            refused = select(2, try('SET', mark, each.id, 'PX', each.window))
            if refused then
                take_back(undos)
                return failed(refused)
            end
            -- One that was set anew stood before, and stands on.
            if each.replace == '0' then undos[#undos + 1] = { 'DEL', mark } end
        end
    end
    for _, each in ipairs(o.members) do
        ack(each)
        counts[each.id] = nil
    end
    return 'ok'
end

function verbs.retry(o)
    local verdict = park(o.id, o.delay, o.failed == '1' and ':f' or ':u')
    if verdict == 'ok' and o.error ~= '' then redis.pcall('HSET', history, o.id .. ':e', o.error) end
    return verdict
end

function verbs.release(o)
    return park(o.id, o.delay, o.charged == '0' and ':u' or nil)
end

function verbs.dead(o)
    if not is_type(counts_key, 'hash') then return 'failed: WRONGTYPE ' .. counts_key end
    o.fields[#o.fields + 1] = 'dead_at'
    o.fields[#o.fields + 1] = string.format('%.0f', now)
    if is_over(o.step) then o.step, o.result, o.emits = nil, nil, {} end
    local _, refused = commit(o, { { key = dead, delay = '', fields = o.fields }, unpack(o.emits) })
    if refused then return failed(refused) end
    redis.pcall('HINCRBY', counts_key, group, 1)
    return ack(o)
end

-- Whether a type is the group's business. The worker's knowledge of that may be some seconds old.
local kinds
local function is_wanted(kind)
    if not kinds then
        kinds = {}
        for _, pair in ipairs(redis.call('SMEMBERS', types)) do kinds[string.match(pair, '^(.*)\t')] = true end
    end
    return kinds[kind]
end

function verbs.skip(o)
    if o.type ~= '' and is_wanted(o.type) then return verbs.wait(o) end
    if o.type ~= '' and o.noted == '1' then
        redis.pcall('HSETNX', skipped, o.type, o.id)
        redis.pcall('HINCRBY', skipped, o.type .. '\tn', 1)
    end
    return ack(o)
end

function verbs.wait(o)
    local index = wait_prefix .. o.type .. ':' .. o.version
    if not is_type(index, 'zset') or not is_type(waits, 'set') then return 'failed: WRONGTYPE ' .. index end
    local noted = { 'SADD', waits, o.type .. '\t' .. o.version }
    local verdict = hand_over('~waiting', o.id, ':u', noted, { 'ZADD', index, now + o.timeout, o.id })
    if gate and verdict == 'ok' then leave(o.id, false) end
    return verdict
end

local verdicts = {}
for i, o in ipairs(outcomes) do
    if o.members or counts[o.id] == o.count then
        local went, verdict = pcall(verbs[o.verb], o)
        verdicts[i] = went and verdict or failed(type(verdict) == 'table' and verdict or { err = verdict })
        -- An id named twice in one batch is ours only once.
        if verdicts[i] == 'ok' or verdicts[i] == 'duplicate' then counts[o.id] = nil end
    else
        verdicts[i] = 'lost'
    end
end
-- News of results that have run out are of no use to anybody.
if has_news then redis.pcall('PEXPIRE', news, 86400000) end
finish(stream, group, acked)
if gate then verdicts[#verdicts + 1] = let_in end
return verdicts
