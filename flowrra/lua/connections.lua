-- By which connections workers are seen, so that one that was killed is known to be gone before its leases end.

-- All queues share those of the default one.
local default_queue = string.match(KEYS[1], '^(.+)@[%w_.-]+$') or KEYS[1]
local connections, missing = default_queue .. ':connections', default_queue .. ':missing'

-- A server without free memory refuses what comes if it is the first that is written. Whoever can't tell of a new
-- connection would be taken for dead.
redis.call('HDEL', missing, '')

-- Microseconds between two looks of a worker: a second, and more in a large fleet, so that the server spends a bounded part
-- of its time on them.
local function pause_between_looks()
  return 1000000 * math.max(1, redis.call('HLEN', connections) / 1000)
end

-- Whether a connection that is not there has been known to be gone for long enough: a worker that has lost its own finds
-- that out at its next look, and has then had the time to make another one.
local function is_long_gone(token, connection, now)
  local since, gone = string.match(redis.call('HGET', missing, token) or '', '^(%d+) (.*)$')
  if gone ~= connection or redis.call('HGET', connections, token) ~= connection then return false end
  return now - tonumber(since) >= 2.5 * pause_between_looks()
end

local function forget_connection(token)
  if redis.call('HDEL', connections, token) == 1 then redis.call('HDEL', missing, token) end
end
