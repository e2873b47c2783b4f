-- Say under which id a dead task is run anew, unless that was said before: from then on it is not requeued.
--
-- KEYS[1]: the queue. ARGV: id, id of the new run. Returns the id that counts, or "" if no dead task has that id.

local id, new_id = ARGV[1], ARGV[2]
write_even_if_full()
write_for_replicas()
if redis.call('HEXISTS', key('dead:tasks'), id) == 0 then return '' end
redis.call('HSETNX', key('dead:retried'), id, new_id)
return redis.call('HGET', key('dead:retried'), id)
