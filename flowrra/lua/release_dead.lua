-- Take back what claim_dead said: the dead task is not run anew under that id.
--
-- KEYS[1]: the queue. ARGV: id, id of the new run.

local id, new_id = ARGV[1], ARGV[2]
write_even_if_full()
write_for_replicas()
if redis.call('HGET', key('dead:retried'), id) == new_id then redis.call('HDEL', key('dead:retried'), id) end
return 1
