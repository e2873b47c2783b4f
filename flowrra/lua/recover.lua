-- Give back what a worker was given without hearing of it, since the answer was lost.
--
-- KEYS[1]: the queue. ARGV: token of the worker, then the ids that it does hold. Returns how many tasks were given back.

look_at_keys()
write_even_if_full()
local token, held, count = ARGV[1], {}, 0
for i = 2, #ARGV do held[ARGV[i]] = true end
for _, id in ipairs(redis.call('ZRANGE', key('leases'), 0, -1)) do
  if not held[id] then
    local entry = is_holder(token, redis.call('HGET', key('holders'), id) or '') and read_entry(id)
    if entry then
      redis.call('ZREM', key('leases'), id)
      redis.call('HDEL', key('holders'), id)
      make_ready(id, entry.priority, entry.deliveries, entry.place, entry.since, entry.payload)
      count = count + 1
    end
  end
end
if count > 0 then wake() end
return count
