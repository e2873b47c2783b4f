-- A queue of tasks. KEYS[1], `queue`, is its name, such as "flowrra:queue:io"; everything of it is below that name.
--
--   <queue>              list in which flowrra 0.1.8 leaves tasks
--   <queue>:tasks        hash, id to entry: "<priority>|<deliveries>|<place>|<since>|<payload>"
--   <queue>:ready        sorted set, "<place><id>" by priority: what is due, first come first served within a priority
--   <queue>:since        sorted set, id by the time since which it has been due: the oldest across all priorities
--   <queue>:delayed      sorted set, id by the time at which it becomes due
--   <queue>:leases       sorted set, "<token><id>" by the time at which the worker's hold on it ends
--   <queue>:dead         sorted set, id by the time at which it was given up
--   <queue>:dead:tasks   hash, id to "<reason>\n<entry>"
--   <queue>:cancelled    set of ids whose holder is asked to end them
--   <queue>:place        counter that gives each ready task its place
--   <queue>:wake         list of at most one element, on which idle workers wait
--   <queue>:control      channel on which holders are told of cancellations
--
-- A task is in exactly one of ready, delayed, leases and dead. `deliveries` counts those that ended without an outcome.

local queue = KEYS[1]
local PLACE_LENGTH = 16
local NO_PLACE = string.rep('0', PLACE_LENGTH)
local TOKEN_LENGTH = 16

local function key(part)
  return queue .. ':' .. part
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

local function append(list, ...)
  for _, value in ipairs({...}) do list[#list + 1] = value end
end

-- Idle workers wait for the list to have an element. One is enough: whoever takes it looks for work, and passes it on
-- if there is more than it can do.
local function wake()
  if redis.call('EXISTS', key('wake')) == 0 then redis.call('LPUSH', key('wake'), '1') end
end

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

local function forget_task(id)
  redis.call('HDEL', key('tasks'), id)
  redis.call('SREM', key('cancelled'), id)
end
