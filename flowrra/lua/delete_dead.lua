-- Forget a dead task.
--
-- KEYS[1]: the queue. ARGV: id, id of the request. Returns 1, or 0 if there was none.

local id, request = ARGV[1], ARGV[2]

local answered = answer_before(request)
if answered then return tonumber(answered) end
local removed = redis.call('ZREM', key('dead'), id) + redis.call('HDEL', key('dead:tasks'), id)
redis.call('HDEL', key('dead:retried'), id)
return answer_always(request, removed > 0 and 1 or 0)
