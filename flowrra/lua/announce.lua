-- Say which names a worker knows, and look after tasks of names that no worker knows.
--
-- KEYS[1]: the queue. ARGV: token of the worker, milliseconds for which it counts, microseconds for which tasks wait for
-- a worker that knows them, the namespace, the id of its process or "", what others are to know of that, then the names
-- if they are to be told.
-- Returns two things: 1, or 0 if the names have to be told; and the names whose tasks have waited for too long.

write_even_if_full()
local token, counts, patience, now = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), server_now()
local ns, process, text = ARGV[4], ARGV[5], ARGV[6]
local FIRST_NAME = 7
local names = key('names:' .. token)
-- Names that are looked at in one go; the next time others are.
local BATCH = 50
local MOST_UNLISTED = 2000

redis.call('ZADD', key('workers'), as_text(now), token)
-- A clock that was put back must not make one that is gone count for ever.
redis.call('ZREMRANGEBYSCORE', key('workers'), '-inf', as_text(now - counts * 1000))
redis.call('ZREMRANGEBYSCORE', key('workers'), '(' .. as_text(now + counts * 1000), '+inf')

-- In the order of the last signs of life; what is long gone is taken off by whoever lives.
if process ~= '' then
  redis.call('SET', ns .. ':worker:' .. process, text, 'PX', counts)
  redis.call('ZADD', ns .. ':workers', now / 1000000, process)
  redis.call('ZREMRANGEBYSCORE', ns .. ':workers', '-inf', now / 1000000 - 3600)
end

-- What has expired is counted no more though nothing is written any more; much of it, as this comes every few seconds.
-- Whatever another program wrote there, workers are announced.
pcall(function() unlist_expired_of(ns, redis.call('SMEMBERS', ns .. ':finished:ttls'), MOST_UNLISTED, now) end)

if #ARGV >= FIRST_NAME then
  redis.call('DEL', names)
  for first = FIRST_NAME, #ARGV, 1000 do
    redis.call('SADD', names, unpack(ARGV, first, math.min(first + 999, #ARGV)))
  end
  if #redis.call('SINTER', key('unknown:names'), names) > 0 then
    redis.call('LPUSH', key('wake:' .. token), '1')
    redis.call('EXPIRE', key('wake:' .. token), 60)
  end
end
local is_known = redis.call('PEXPIRE', names, counts)

local overdue = {}
for _, name in ipairs(redis.call('SRANDMEMBER', key('unknown:names'), BATCH)) do
  local is_wanted = is_name_paused(name)
  for _, worker in ipairs(redis.call('ZRANGE', key('workers'), 0, -1)) do
    is_wanted = is_wanted or knows(worker, name)
  end
  local since = tonumber(redis.call('HGET', key('unknown:since'), name) or '')
  -- It may also be what another program wrote, or of a clock that was put back.
  if is_wanted or not (since and since <= now) then
    redis.call('HSET', key('unknown:since'), name, as_text(now))
  elseif now - since >= patience then
    append(overdue, name)
  end
end
return {is_known, overdue}
