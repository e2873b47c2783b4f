-- Make a dead task due again, as if it had never been delivered.
--
-- KEYS[1]: the queue. ARGV: namespace of the records, id, record or "" if there is none to write, time of submission,
-- name. Returns 1, or 0 if no dead task has that id, or it is being run anew.

local ns, id, record, now = ARGV[1], ARGV[2], ARGV[3], as_text(server_now())
local dead = redis.call('HGET', key('dead:tasks'), id)
if not dead or redis.call('HEXISTS', key('tasks'), id) == 1 then return 0 end
if redis.call('HEXISTS', key('dead:retried'), id) == 1 then return 0 end
local priority, payload = string.match(dead, '^[^\n]*\n([^|]*)|%d+|%d+|%d+|(.*)$')
redis.call('HDEL', key('dead:tasks'), id)
redis.call('ZREM', key('dead'), id)
make_ready(id, priority, 0, new_place(), now, payload)
wake()
if record ~= '' then
  unlist(ns, 'failed', ARGV[5], {id})
  keep_records(ns, {{id, record, 'pending', ARGV[4], ARGV[5]}}, 0, tonumber(now))
end
return 1
