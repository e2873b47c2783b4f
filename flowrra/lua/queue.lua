-- A queue of tasks. KEYS[1], `queue`, is its name, such as "flowrra:queue:io"; everything of it is below that name.
--
--   <queue>                 list in which flowrra 0.1.8 leaves tasks
--   <queue>:tasks           hash, id to entry: "<priority>|<deliveries>|<place>|<since>|<payload>"
--   <queue>:ready           sorted set, "<place><id>" by priority: what is due, first come first served within a priority
--   <queue>:since           sorted set, id by the time since which it has been due: the oldest across all priorities
--   <queue>:delayed         sorted set, id by the time at which it becomes due
--   <queue>:leases          sorted set, id by the time at which the worker's hold on it ends, or is doubted
--   <queue>:holders         hash, id to "<token><lease>" of its worker; "?" before it says that the hold is doubted
--   <queue>:unknown         hash, id to name: tasks that wait for a worker that knows them
--   <queue>:unknown:names   set of their names
--   <queue>:unknown:<name>  sorted set, "<place><id>" by priority, of one name
--   <queue>:unknown:since   hash, name to the time at which a worker that lives was last known to know it
--   <queue>:workers         sorted set, tokens of workers by the last sign of life
--   <queue>:names:<token>   set of the names that a worker knows; expires with it
--   <queue>:dead            sorted set, id by the time at which it was given up
--   <queue>:dead:tasks      hash, id to "<reason>\n<entry>"
--   <queue>:cancelled       set of ids whose holder is asked to end them
--   <queue>:once:<id>       says that this id was accepted, for longer than its record is kept; expires
--   <queue>:lapsed:<id>     says that a worker which has lost its hold may still tell an outcome; expires
--   <queue>:place           counter that gives each ready task its place
--   <queue>:wake            list of at most one element, on which idle workers wait
--   <queue>:wake:<token>    the same for one of them
--
-- A task is in exactly one of ready, delayed, leases, unknown and dead. `deliveries` counts those whose worker was not
-- heard of any more.

local queue = KEYS[1]
local PLACE_LENGTH = 16
local NO_PLACE = string.rep('0', PLACE_LENGTH)
local TOKEN_LENGTH = 16
-- A hold that was not renewed is doubted after this part of the lease, and ends after all of it. In between its worker
-- has the time to renew it, even if the server's clock was put forward and all holds seem to have ended at once.
local UNDOUBTED = 0.6
-- Milliseconds for which a worker that lost its hold is expected to tell of the task at the latest.
local LAPSED_TTL = 3600 * 1000
-- A task that is larger is not given out: nobody could read it.
local MOST_BYTES = 65 * 1024 * 1024
-- The largest whole number that is exact, and the largest number.
local MOST, LARGEST = 2 ^ 53, 1.7976931348623157e308

local function key(part)
  return queue .. ':' .. part
end

-- A server without free memory refuses a script that may take more, unless it has written something already. What
-- frees memory in the end, or says that work was done, must go through.
local function write_even_if_full()
  redis.call('ZREM', key('leases'), '')
end

local function entry_of(priority, deliveries, place, since, payload)
  return table.concat({priority, deliveries, place, since, payload}, '|')
end

local function write_entry(id, ...)
  redis.call('HSET', key('tasks'), id, entry_of(...))
end

local function parse_entry(entry)
  local priority, deliveries, place, since, payload = string.match(entry, '^([^|]*)|(%d+)|(%d+)|(%d+)|(.*)$')
  if not tonumber(priority) then  -- not of our making: whoever takes it finds out
    priority, deliveries, place, since, payload = '0', 0, NO_PLACE, as_text(server_now()), entry
  end
  return {priority = priority, deliveries = tonumber(deliveries), place = place, since = since, payload = payload}
end

local function read_entry(id)
  local entry = redis.call('HGET', key('tasks'), id)
  return entry and parse_entry(entry)
end

local function place_text(number)
  return string.format('%016.0f', number)
end

-- The first of so many places.
local function reserve_places(count)
  return redis.call('INCRBY', key('place'), count) - count + 1
end

local function new_place()
  return place_text(reserve_places(1))
end

-- Without a table for its arguments: this is on every task's way.
local function append(list, one, other)
  local length = #list
  list[length + 1] = one
  list[length + 2] = other
end

-- Idle workers wait for the list to have an element. One is enough: whoever takes it looks for work, and passes it on
-- if there is more than it can do.
local function wake()
  if redis.call('EXISTS', key('wake')) == 0 then redis.call('LPUSH', key('wake'), '1') end
end

-- ── what is due, and what is not yet ─────────────────────────────────────────────────────────────────────────

local function make_ready(id, priority, deliveries, place, since, payload)
  write_entry(id, priority, deliveries, place, since, payload)
  redis.call('ZADD', key('ready'), priority, place .. id)
  redis.call('ZADD', key('since'), since, id)
end

-- Whether `id` was among what is due, and is no longer.
local function take_from_ready(id, place)
  if redis.call('ZREM', key('ready'), place .. id) == 0 then return false end
  redis.call('ZREM', key('since'), id)
  return true
end

-- Idle workers wait until the earliest is due; an earlier one must wake them.
local function queue_delayed(id, due)
  redis.call('ZADD', key('delayed'), due, id)
  if redis.call('ZRANGE', key('delayed'), 0, 0)[1] == id then wake() end
end

-- Hold `id` back until `due`.
local function hold_back(id, priority, deliveries, due, payload)
  write_entry(id, priority, deliveries, NO_PLACE, due, payload)
  queue_delayed(id, due)
end

-- ── what workers hold ────────────────────────────────────────────────────────────────────────────────────────

local function is_holder(token, holder)
  return string.sub(holder, 1, TOKEN_LENGTH) == token or string.sub(holder, 1, TOKEN_LENGTH + 1) == '?' .. token
end

-- A holder's token, the length of its lease in microseconds, and whether its hold is doubted.
local function parse_holder(holder)
  local doubt, rest = string.match(holder, '^(%??)(.*)$')
  return string.sub(rest, 1, TOKEN_LENGTH), tonumber(string.sub(rest, TOKEN_LENGTH + 1)) or 0, doubt == '?'
end

local function end_hold(id)
  redis.call('ZREM', key('leases'), id)
  redis.call('HDEL', key('holders'), id)
  redis.call('SET', key('lapsed:' .. id), '1', 'PX', LAPSED_TTL)
end

-- ── what waits for a worker that knows it ────────────────────────────────────────────────────────────────────

local function knows(token, name)
  return redis.call('SISMEMBER', key('names:' .. token), name) == 1
end

-- Leave `id` to the workers that know its name, and wake those.
local function park(id, entry, name, now)
  redis.call('HSET', key('unknown'), id, name)
  redis.call('ZADD', key('unknown:' .. name), entry.priority, entry.place .. id)
  redis.call('SADD', key('unknown:names'), name)
  redis.call('HSETNX', key('unknown:since'), name, as_text(now))
  for _, token in ipairs(redis.call('ZRANGE', key('workers'), 0, -1)) do
    local wake_one = key('wake:' .. token)
    if knows(token, name) and redis.call('EXISTS', wake_one) == 0 then
      redis.call('LPUSH', wake_one, '1')
      redis.call('EXPIRE', wake_one, 60)
    end
  end
end

-- Whether `id` waited for a worker that knows it, and no longer does.
local function take_from_unknown(id, place)
  local name = redis.call('HGET', key('unknown'), id)
  if not name then return false end
  redis.call('HDEL', key('unknown'), id)
  redis.call('ZREM', key('unknown:' .. name), place .. id)
  if redis.call('EXISTS', key('unknown:' .. name)) == 0 then
    redis.call('SREM', key('unknown:names'), name)
    redis.call('HDEL', key('unknown:since'), name)
  end
  return true
end

-- Whether `id` waited, for whatever, and no longer does.
local function take_from_waiting(id, place)
  return take_from_ready(id, place)
    or redis.call('ZREM', key('delayed'), id) == 1
    or take_from_unknown(id, place)
end

local function forget_task(id)
  redis.call('HDEL', key('tasks'), id)
  redis.call('SREM', key('cancelled'), id)
end
