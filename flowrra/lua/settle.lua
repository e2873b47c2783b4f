-- Say what became of tasks that this worker was given. Each task is settled once.
--
-- KEYS[1]: the queue. ARGV: the namespace of the records, token of the worker, ttl of finished records in milliseconds.
-- Then 3 for each task: "<verb> <number of the delivery> <delay in microseconds> <status> <time of submission> <priority>
-- <label> <id>", payload, reason or name, record or "" if it is kept elsewhere. A task without a record has the status "-", but
-- with "complete" its own.
--
--   running      it is being run: nothing but its record changes
--   complete     nothing more happens to it
--   retry        it is run again after the delay, with that payload
--   release      the worker gives it back unrun, to the place it had, or with that payload if an attempt had begun
--   nack         the worker doesn't know that name; another one may
--   dead_letter  it is given up, for that reason
--
-- Returns for each:
--
--   settled   as it was said
--   known     it had been said before, and the answer was lost
--   late      another worker has it, whose outcome will count; what is late and no success is not heard
--   over      it had ended before
--   lost      the server doesn't know it, as after a failover that lost writes: only its record was kept
--
-- What comes from a worker that has lost its hold counts while nobody else has held the task since; a success counts
-- whoever holds it, even for a task that was given up since no worker had told its outcome. What is said again of a
-- delivery never undoes what the task has become since.

local ns, token, ttl, now = ARGV[1], ARGV[2], tonumber(ARGV[3]), server_now()

write_even_if_full()

local function run_again(id, entry, delay, payload)
  if redis.call('SISMEMBER', key('cancelled'), id) == 1 then
    -- It was to be cancelled and failed first: whoever takes it next finds that out.
    make_ready(id, entry.priority, 0, new_place(), as_text(now), payload)
    wake()
  else
    hold_back(id, entry.priority, 0, as_text(now + delay), payload)
  end
end

-- A payload that is too large to be read is not kept.
local function dead_letter(id, entry, reason)
  local payload = #entry.payload > MOST_BYTES and string.sub(entry.payload, 1, 1024) or entry.payload
  local text = entry_of(entry.priority, entry.deliveries, entry.place, entry.since, payload)
  redis.call('ZADD', key('dead'), as_text(now), id)
  redis.call('HSET', key('dead:tasks'), id, reason .. '\n' .. text)
  redis.call('HDEL', key('dead:retried'), id)  -- that was another one, of the same id
  forget_task(id)
end

-- Whether a task that isn't in the queue any more has a record that says how it ended.
local function is_recorded(id)
  if ns == '' then return false end
  for status in pairs(FINISHED) do
    if redis.call('ZSCORE', ns .. ':status:' .. status, id) and redis.call('EXISTS', ns .. ':task:' .. id) == 1 then
      return true
    end
  end
  return false
end

-- Whether it was given up, and now is not any more.
local function take_from_dead(id, name)
  if redis.call('ZREM', key('dead'), id) == 0 then return false end
  redis.call('HDEL', key('dead:tasks'), id)
  redis.call('HDEL', key('dead:retried'), id)
  if ns ~= '' then unlist(ns, 'failed', name_of(ns, id, name), {id}) end
  return true
end

-- Whether another delivery of the task is known that was made later, or an outcome of this one was settled.
local function is_outdated(id, number)
  local is_settled, latest = read_mark(id)
  if is_settled == nil then return false end
  return latest > number and number > 0 or is_settled and latest >= number
end

-- Whether an outcome of this very delivery was settled. Of an unknown one, that is so if nobody has held the task since.
local function is_told_again(id, number, is_held)
  local is_settled, latest = read_mark(id)
  return is_settled and (latest == number or number == 0) and not (number == 0 and is_held)
end

-- Of an outcome for which there is no task any more.
local function judge_missing(id, verb, status, record, name, number)
  if verb == 'complete' and status == 'success' and take_from_dead(id, name) then return 'settled' end
  if redis.call('HEXISTS', key('dead:tasks'), id) == 1 then return 'over' end
  if record ~= '' and redis.call('GET', ns .. ':task:' .. id) == record then return 'known' end
  local ended_by = redis.call('GET', key('ended:' .. id))
  if ended_by == token and verb == 'complete' then return 'known' end
  if is_told_again(id, number, true) then return 'known' end
  if ended_by or is_recorded(id) then return 'over' end
  local is_settled, latest = read_mark(id)
  -- A delivery that was made after the one of which the server knows is all that is left of the task.
  if is_settled ~= nil and (latest == 0 or number == 0 or latest >= number) then return 'over' end
  return 'lost'
end

-- Of an outcome whose worker does not hold the task; if it is settled, it takes effect as if it did.
local function judge(id, verb, status, text, record, name, number)
  local entry = read_entry(id)
  if not entry then return judge_missing(id, verb, status, record, name, number) end
  if verb == 'running' then return 'late' end
  local is_held = redis.call('HEXISTS', key('holders'), id) == 1
  if verb == 'complete' and status == 'success' then
    if is_held then end_hold(id) else take_from_waiting(id, entry.place) end
    return 'settled'
  end
  if is_told_again(id, number, is_held) then return 'known' end
  if not is_held and not is_outdated(id, number) then
    if take_from_ready(id, entry.place) then return 'settled' end
    if verb == 'retry' and entry.payload == text then return 'known' end
    if verb == 'nack' and redis.call('HGET', key('unknown'), id) == text then return 'known' end
  end
  -- The worker lives, and has told an outcome: it does not count as one that was not heard of. That is once for each hold.
  if entry.deliveries > 0 and not is_outdated(id, number) then
    write_entry(id, entry.priority, entry.deliveries - 1, entry.place, entry.since, entry.payload)
    local _, latest = read_mark(id)
    mark_delivery(id, 's', as_text(latest or number))
  end
  return 'late'
end

local function settle(verb, id, delay, text)
  local entry = read_entry(id)
  if not entry then return end
  if verb == 'retry' then
    run_again(id, entry, delay, text)
  elseif verb == 'release' then
    local payload = text ~= '' and text or entry.payload
    make_ready(id, entry.priority, entry.deliveries, entry.place, entry.since, payload)
    wake()
  elseif verb == 'nack' then
    park(id, entry, text, now)
  elseif verb == 'dead_letter' then
    dead_letter(id, entry, text)
  end
end

-- The number that a part of a line states, which no more than `most` may be.
local function number_in(text, part, most)
  local number = tonumber(text)
  if not number or not (math.abs(number) <= most) then error('the ' .. part .. ' of an outcome is out of range') end
  return number
end

local outcomes, ids = {}, {}
for i = 4, #ARGV, 3 do
  local line = ARGV[i]
  local verb, number, delay, status, submitted, priority, bytes, rest =
    string.match(line, '^([%l_]+) (%d+) (%d+) (%S+) (%d+) (%S+) (%d+):(.*)$')
  local name, id = read_label(bytes, rest)
  number_in(submitted, 'time of submission', MOST)
  number_in(priority, 'priority', LARGEST)
  local place = (i - 1) / 3
  ids[place] = id
  number = number_in(number, 'number of the delivery', MOST)
  outcomes[place] = {
    verb, number, number_in(delay, 'delay', MOST), status, submitted, priority, id, ARGV[i + 1], ARGV[i + 2], name,
  }
end

-- Whether a holder is this worker, and the number of its delivery if so. What was taken together has one holder, which is
-- read once.
local read_before = {}
local function read_holder(holder)
  local number = read_before[holder]
  if number == nil then
    number = is_holder(token, holder) and tonumber(number_of(holder))
    read_before[holder] = number
  end
  return number ~= false, number or 0
end

local holders, records, done, let_go, answers = redis.call('HMGET', key('holders'), unpack(ids)), {}, {}, {}, {}
for i, outcome in ipairs(outcomes) do
  local verb, number, delay, status, submitted, priority, id, text, record, name = unpack(outcome)
  local is_ours, held_number = false, 0
  if holders[i] then is_ours, held_number = read_holder(holders[i]) end
  -- A hold that had lapsed may have come back to its worker, which tells how the one before has ended.
  if is_ours and number ~= held_number and held_number > 0 and number > 0 then is_ours = not is_outdated(id, number) end
  local answer = is_ours and 'settled' or judge(id, verb, status, text, record, name, number)
  local is_effective = answer == 'settled' or (answer == 'lost' and verb == 'retry')
  if is_effective and verb ~= 'running' and verb ~= 'complete' then
    mark_delivery(id, 's', as_text(math.max(number, held_number)))
  end
  if answer == 'lost' and verb == 'retry' then
    run_again(id, {priority = priority}, delay, text)
  elseif answer == 'settled' and verb == 'complete' then
    done[#done + 1] = id
    if record == '' then remember_end(id, token) end
  elseif answer == 'settled' and verb ~= 'running' then
    settle(verb, id, delay, text)
  end
  if is_ours and verb ~= 'running' then let_go[#let_go + 1] = id end
  if record ~= '' and (answer == 'settled' or answer == 'lost') then
    records[#records + 1] = {id, record, status, submitted, name}
  end
  answers[i] = answer
end

if #let_go > 0 then
  redis.call('ZREM', key('leases'), unpack(let_go))
  redis.call('HDEL', key('holders'), unpack(let_go))
end
if #done > 0 then
  redis.call('HDEL', key('tasks'), unpack(done))
  redis.call('SREM', key('cancelled'), unpack(done))
end
if #records > 0 then keep_records(ns, records, ttl, now) end
if #let_go + #done + #records == 0 then write_for_replicas() end
return answers
