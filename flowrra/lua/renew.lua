-- Go on holding tasks, and say that the worker lives.
--
-- KEYS[1]: the queue. ARGV: token of the worker, length of the lease in microseconds, then the ids.
-- Returns three lists of ids: those that this worker has lost to another one, or that are over; those that are to be
-- cancelled; and those that the server doesn't know, as after a failover that lost writes.

write_even_if_full()
local token, lease, now = ARGV[1], tonumber(ARGV[2]), server_now()
local ends = as_text(now + lease * UNDOUBTED)
local lost, cancelled, missing = {}, {}, {}

redis.call('ZADD', key('workers'), as_text(now), token)

local function is_over(id)
  return read_mark(id) == false or redis.call('HEXISTS', key('dead:tasks'), id) == 1
end

for i = 3, #ARGV do
  local id = ARGV[i]
  local held_by = redis.call('HGET', key('holders'), id)
  if held_by and is_holder(token, held_by) then
    local holder = holder_of(token, lease, number_of(held_by))
    if held_by ~= holder then redis.call('HSET', key('holders'), id, holder) end
    redis.call('ZADD', key('leases'), ends, id)
  elseif redis.call('HEXISTS', key('tasks'), id) == 1 or is_over(id) then
    append(lost, id)
  else
    append(missing, id)
  end
  if redis.call('SISMEMBER', key('cancelled'), id) == 1 then append(cancelled, id) end
end
return {lost, cancelled, missing}
