-- Have changes told from now on, for so long. KEYS[1]: as for namespace_of. ARGV[1]: milliseconds.
-- Returns the id of the last entry, and the number of the last one that is ours.

local ns = namespace_of(KEYS[1])
-- Refused if another program has written what is no number: nothing more would be told.
redis.call('INCRBY', ns .. ':changes:number', 0)
if redis.call('EXISTS', ns .. ':watched') == 0 or redis.call('EXISTS', ns .. ':changes') == 0 then
  -- Nobody was told of what happened before, or it was evicted: an entry without a task says so to one who comes back.
  add_change(ns, {})
end
redis.call('SET', ns .. ':watched', '1', 'PX', ARGV[1])
-- As long as somebody watches, the numbers go on.
keep_changes(ns)
local last = redis.call('XREVRANGE', ns .. ':changes', '+', '-', 'COUNT', 1)[1]
return {last[1], redis.call('GET', ns .. ':changes:number')}
