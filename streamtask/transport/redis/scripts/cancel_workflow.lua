-- cancel_workflow: note that nobody wants a workflow any more, and that as its result, unless it has one.
-- KEYS[1] cancelled mark  [2] result of the workflow  [3] news of results
-- ARGV ttl ms, id of the result ('' for none), result ttl ms, result   -> 1 cancelled, 0 it has a result
-- Atomic so that a result that comes meanwhile is not overwritten: it has ended then.
local mark, result, news = unpack(KEYS)
local ttl, name, result_ttl, body = unpack(ARGV)
redis.call('SET', mark, '1', 'PX', ttl)
if name ~= '' and redis.call('EXISTS', result) == 1 then return 0 end
if name ~= '' then
    redis.call('SET', result, body, 'PX', result_ttl)
    redis.call('XADD', news, 'MAXLEN', '~', 10000, '*', 'id', name)
    redis.call('PEXPIRE', news, 86400000)
end
return 1
