-- A queue of tasks. KEYS[1], `queue`, is its key, such as "flowrra:queue:io"; everything of it is below that key. That is
-- the default queue; one beside it, with a name of its own, is "<default queue>@<name>", such as "flowrra:queue:io@mail".
--
--   <queue>                 list in which flowrra 0.1.8 leaves tasks
--   <queue>:tasks           hash, id to entry: "<priority>|<deliveries>|<place>|<since>|<payload>"
--   <queue>:ready           sorted set, "<place><id>" by priority: what is due, first come first served within a priority
--   <queue>:since           sorted set, id by the time since which it has been due: the oldest across all priorities
--   <queue>:delayed         sorted set, id by the time at which it becomes due
--   <queue>:leases          sorted set, id by the time at which the worker's hold on it ends, or is doubted
--   <queue>:holders         hash, id to "<token><lease>.<number>" of its worker and the delivery; "?" before it says that
--                           the hold is doubted; earlier versions know no number, and read a part of a microsecond
--   <queue>:unknown         hash, id to name: tasks that wait for a worker that knows them
--   <queue>:unknown:names   set of their names
--   <queue>:unknown:of:<n>  sorted set, "<place><id>" by priority, of the name <n>
--   <queue>:unknown:since   hash, name to the time at which a worker that lives was last known to know it
--   <queue>:workers         sorted set, tokens of workers by the last sign of life
--   <queue>:names:<token>   set of the names that a worker knows; expires with it
--   <queue>:dead            sorted set, id by the time at which it was given up
--   <queue>:dead:tasks      hash, id to "<reason>\n<entry>"
--   <queue>:dead:retried    hash, id to the id under which a dead task is being run anew: it is not requeued as well
--   <queue>:cancelled       set of ids whose holder is asked to end them
--   <queue>:once:<id>       says that this id was accepted, for longer than its record is kept; expires
--   <queue>:lapsed:<id>     of the latest hold that has ended but for the task's end: "o<number>", its worker may still tell
--                           an outcome, or "s<number>", an outcome of that delivery was settled; expires. "1" is of an
--                           earlier version, and says the former
--   <queue>:ended:<id>      the worker that said so, of a task whose record is kept elsewhere; "" if it was cancelled; expires
--   <queue>:answer:<id>     what was answered to the request of that id, for whoever makes it again; expires
--   <queue>:place           counter that gives each ready task its place
--   <queue>:taken           counter of the tasks that workers were given
--   <queue>:wake            list of at most one element, on which idle workers wait
--   <queue>:wake:<token>    the same for one of them
--   <queue>:paused          says that nothing is given out
--
-- and for all of them, of the default queue alone:
--
--   <queue>:queues          sorted set of the names of the queues beside it: the first ones are always the same
--   <queue>:paused:names    set of names of tasks that are not to be begun; they wait where those of unknown names do
--   <queue>:orders:<id>     list of what a process of workers is told to do; expires
--   <queue>:connections     hash, token to "<run of the server> <client id>": the connection by which a worker is seen
--   <queue>:missing         hash, token to "<time> <connection>": since when that one has not been there
--   <queue>:looked          "<time> <cursor>": when connections are looked at again, and from where on
--
-- A delivery's number is the time at which it was made: later ones of a task have greater ones, also after a failover. 0 is
-- one that isn't known.
--
-- A task is in exactly one of ready, delayed, leases, unknown and dead. `deliveries` counts those whose worker was not
-- heard of any more.

local queue = KEYS[1]
local home, queue_name = queue, nil
if string.find(queue, '@', 1, true) then
  home, queue_name = string.match(queue, '^(.+)@([%w_.-]+)$')
  home = home or queue
end
local PLACE_LENGTH = 16
local NO_PLACE = string.rep('0', PLACE_LENGTH)
local TOKEN_LENGTH = 16
-- A hold that was not renewed is doubted after this part of the lease, and ends after all of it. In between its worker
-- has the time to renew it, even if the server's clock was put forward and all holds seem to have ended at once.
local UNDOUBTED = 0.6
-- Milliseconds for which a worker that lost its hold is expected to tell of the task at the latest.
local LAPSED_TTL = 3600 * 1000
-- Milliseconds for which what is said or asked again is known for that.
local REPEATED_TTL = 60 * 1000
-- A task that is larger is not given out: nobody could read it.
local MOST_BYTES = 65 * 1024 * 1024
-- The largest whole number that is exact, and the largest number.
local MOST, LARGEST = 2 ^ 53, 1.7976931348623157e308

local function key(part)
  return queue .. ':' .. part
end

-- So that all who look find it.
local function register_queue()
  if queue_name then redis.call('ZADD', home .. ':queues', 0, queue_name) end
end

-- A server without free memory refuses a script that may take more, unless it has written something already. What
-- frees memory in the end, or says that work was done, must go through.
local function write_even_if_full()
  redis.call('ZREM', key('leases'), '')
end

-- A server waits for its replicas only for who has written something, and what was said or asked again may not have
-- reached them. This goes to them, and leaves nothing.
local function write_for_replicas()
  redis.call('SET', key('again'), '')
  redis.call('DEL', key('again'))
end

-- Fail where another program has written what can't be a part of a queue, before anything is written: what a script has
-- done stays when it fails, and a task could be left in no place where anybody looks for it.
local function look_at_keys()
  redis.call('HLEN', key('tasks'))
  redis.call('ZCARD', key('ready'))
  redis.call('ZCARD', key('since'))
  redis.call('LLEN', key('wake'))
end

local function entry_of(priority, deliveries, place, since, payload)
  return priority .. '|' .. deliveries .. '|' .. place .. '|' .. since .. '|' .. payload
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

-- The first of so many places. Another program may have written what is none: a task keeps the one that it has until it has
-- another.
local function reserve_places(count)
  local last = redis.call('INCRBY', key('place'), count)
  if last < count or last > MOST then error('the counter of places is out of range') end
  return last - count + 1
end

local function new_place()
  return place_text(reserve_places(1))
end

-- Idle workers wait for the list to have an element. One is enough: whoever takes it looks for work, and passes it on
-- if there is more than it can do. Of a queue that is paused there is nothing to be had.
local function wake()
  if redis.call('EXISTS', key('wake'), key('paused')) == 0 then redis.call('LPUSH', key('wake'), '1') end
end

-- ── what is said or asked again, as its answer was lost ──────────────────────────────────────────────────────

-- What this request was answered when it was made before.
local function answer_before(request)
  local answer = redis.call('GET', key('answer:' .. request))
  -- A server waits for its replicas only for who has written something.
  if answer then redis.call('PEXPIRE', key('answer:' .. request), REPEATED_TTL) end
  return answer
end

-- The answer to a request, to which it is answered the same from now on.
local function answer_always(request, answer)
  redis.call('SET', key('answer:' .. request), answer, 'PX', REPEATED_TTL)
  return answer
end

-- Remember of a task whose record is kept elsewhere that it has ended: there is nothing else by which what is said of it
-- again would not be taken for what a failover has left of it.
local function remember_end(id, token)
  redis.call('SET', key('ended:' .. id), token, 'PX', REPEATED_TTL)
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

local function holder_of(token, lease, number)
  return token .. as_text(lease) .. '.' .. number
end

-- A holder's token, the length of its lease in microseconds, and whether its hold is doubted.
local function parse_holder(holder)
  local doubt, rest = string.match(holder, '^(%??)(.*)$')
  local lease = string.match(rest, '^(%d+)', TOKEN_LENGTH + 1)
  return string.sub(rest, 1, TOKEN_LENGTH), tonumber(lease) or 0, doubt == '?'
end

-- The number of a holder's delivery, as text.
local function number_of(holder)
  return string.match(holder, '%.(%d+)$') or '0'
end

local function mark_delivery(id, kind, number)
  redis.call('SET', key('lapsed:' .. id), kind .. number, 'PX', LAPSED_TTL)
end

-- Whether the latest hold that has ended was settled, and its number; nothing if none is known.
local function read_mark(id)
  local mark = redis.call('GET', key('lapsed:' .. id))
  if not mark then return end
  local kind, number = string.match(mark, '^([os])(%d+)$')
  return kind == 's', tonumber(number) or 0
end

local function end_hold(id)
  local holder = redis.call('HGET', key('holders'), id) or ''
  redis.call('ZREM', key('leases'), id)
  redis.call('HDEL', key('holders'), id)
  mark_delivery(id, 'o', number_of(holder))
end

-- Queue a task that a worker held, in the place that it had. If that worker is gone, it counts as delivered in vain.
local function give_back(id, is_gone, since)
  local entry = read_entry(id)
  end_hold(id)
  if not entry then return end
  local deliveries = entry.deliveries + (is_gone and 1 or 0)
  make_ready(id, entry.priority, deliveries, entry.place, as_text(since), entry.payload)
end

-- ── what waits for a worker that knows it ────────────────────────────────────────────────────────────────────

-- A name may be any text, such as "names" or "since".
local function unknown_of(name)
  return key('unknown:of:' .. name)
end

local function knows(token, name)
  return redis.call('SISMEMBER', key('names:' .. token), name) == 1
end

local function is_name_paused(name)
  return redis.call('SISMEMBER', home .. ':paused:names', name) == 1
end

-- Have the workers that know a name look whether tasks of it wait for them.
local function wake_who_knows(name)
  if redis.call('EXISTS', unknown_of(name)) == 0 or is_name_paused(name) then return end
  for _, token in ipairs(redis.call('ZRANGE', key('workers'), 0, -1)) do
    local wake_one = key('wake:' .. token)
    if knows(token, name) and redis.call('EXISTS', wake_one) == 0 then
      redis.call('LPUSH', wake_one, '1')
      redis.call('EXPIRE', wake_one, 60)
    end
  end
end

-- Leave `id` to the workers that know its name, and wake those; while the name is paused, to nobody.
local function park(id, entry, name, now)
  redis.call('HSET', key('unknown'), id, name)
  redis.call('ZADD', unknown_of(name), entry.priority, entry.place .. id)
  redis.call('SADD', key('unknown:names'), name)
  redis.call('HSETNX', key('unknown:since'), name, as_text(now))
  wake_who_knows(name)
end

-- As `look_at_keys`, where tasks wait for a worker that knows them.
local function look_at_unknown()
  redis.call('HLEN', key('unknown'))
  redis.call('SCARD', key('unknown:names'))
  redis.call('HLEN', key('unknown:since'))
end

-- Whether `id` waited for a worker that knows it, and no longer does.
local function take_from_unknown(id, place)
  local name = redis.call('HGET', key('unknown'), id)
  if not name then return false end
  look_at_unknown()
  redis.call('ZREM', unknown_of(name), place .. id)
  redis.call('HDEL', key('unknown'), id)
  if redis.call('EXISTS', unknown_of(name)) == 0 then
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
