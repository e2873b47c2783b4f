-- Make a dead task due again, as if it had never been delivered.
--
-- KEYS[1]: the queue. ARGV: namespace of the records, id, record or "" if there is none to write, time of submission,
-- name, id of the request. Returns 1, or 0 if no dead task has that id, or it is being run anew.

local ns, id, record, request, now = ARGV[1], ARGV[2], ARGV[3], ARGV[6], as_text(server_now())
if answer_before(request) then return 1 end
local dead = redis.call('HGET', key('dead:tasks'), id)
if not dead or redis.call('HEXISTS', key('tasks'), id) == 1 then return 0 end
if redis.call('HEXISTS', key('dead:retried'), id) == 1 then return 0 end
look_at_keys()
redis.call('ZCARD', key('dead'))
if record ~= '' then
  look_at_lists(ns, 'pending', {[ARGV[5]] = true})
  look_at_lists(ns, 'failed', {[ARGV[5]] = true})
end
local priority, payload = string.match(dead, '^[^\n]*\n([^|]*)|%d+|%d+|%d+|(.*)$')
if not tonumber(priority) then error('the dead task is not of the expected form') end
write_even_if_full()
local place = new_place()
redis.call('HDEL', key('dead:tasks'), id)
redis.call('ZREM', key('dead'), id)
make_ready(id, priority, 0, place, now, payload)
wake()
if record ~= '' then
  unlist(ns, 'failed', ARGV[5], {id})
  keep_records(ns, {{id, record, 'pending', ARGV[4], ARGV[5]}}, 0, tonumber(now))
end
return answer_always(request, 1)
