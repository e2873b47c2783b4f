-- Take back under which id a task is run anew. KEYS[1]: as for namespace_of. ARGV: id, id of the new run.

local retried, new_id = namespace_of(KEYS[1]) .. ':retried:' .. ARGV[1], ARGV[2]
if redis.call('GET', retried) == new_id then redis.call('DEL', retried) end
return 1
