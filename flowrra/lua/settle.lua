-- Say what became of tasks that this worker holds. Each is settled once: what comes from a worker that has lost its
-- hold counts only while the task waits to be taken again.
--
-- KEYS[1]: the queue. ARGV: the namespace of the records, token of the worker, ttl of finished records in milliseconds.
-- Then 3 for each task: "<verb> <delay in microseconds> <status> <time of submission> <id>", payload or reason, record
-- or "" if it is kept elsewhere.
--
--   running   it is being run: nothing but its record changes
--   done      nothing more happens to it
--   later     it is run again after the delay, with that payload
--   release   the worker gives it back unrun, to the place it had
--   refuse    the worker can't run it; another one may, after the delay. Counts as a delivery without an outcome
--   bury      it is given up, for that reason
--
-- Returns 1 for each that was settled, 0 for one that was no longer this worker's to settle.

local ns, token, ttl, now, settled = ARGV[1], ARGV[2], tonumber(ARGV[3]), server_now(), {}

local function run_again(id, entry, delay, payload)
  if redis.call('SISMEMBER', key('cancelled'), id) == 1 then
    -- It was to be cancelled and failed first: whoever takes it next finds that out.
    make_ready(id, entry.priority, 0, new_place(), as_text(now), payload)
    wake()
  else
    hold_back(id, entry.priority, 0, as_text(now + delay), payload)
  end
end

local function bury(id, reason)
  local entry = read_entry(id)
  if not entry then return end
  local text = entry_of(entry.priority, entry.deliveries, entry.place, entry.since, entry.payload)
  redis.call('ZADD', key('dead'), as_text(now), id)
  redis.call('HSET', key('dead:tasks'), id, reason .. '\n' .. text)
  forget_task(id)
end

local function settle(verb, id, delay, text)
  if verb == 'bury' then return bury(id, text) end
  local entry = read_entry(id)
  if not entry then return end
  if verb == 'later' then
    run_again(id, entry, delay, text)
  elseif verb == 'release' then
    make_ready(id, entry.priority, entry.deliveries, entry.place, entry.since, entry.payload)
    wake()
  elseif verb == 'refuse' then
    hold_back(id, entry.priority, entry.deliveries + 1, as_text(now + delay), entry.payload)
  end
end

-- Whether the task waits to be taken again, and now no longer does.
local function take_back(id)
  local entry = read_entry(id)
  return entry and take_from_ready(id, entry.place)
end

local outcomes, leases = {}, {}
for i = 4, #ARGV, 3 do
  local verb, delay, status, submitted, id = string.match(ARGV[i], '^(%l+) (%d+) (%S+) (%d+) (.*)$')
  append(leases, token .. id)
  append(outcomes, {verb, tonumber(delay), status, submitted, id, ARGV[i + 1], ARGV[i + 2]})
end

local held, records, done, let_go = redis.call('ZMSCORE', key('leases'), unpack(leases)), {}, {}, {}
for i, outcome in ipairs(outcomes) do
  local verb, delay, status, submitted, id, text, record = unpack(outcome)
  local is_ours = held[i] or (verb == 'done' and take_back(id))
  if is_ours and verb ~= 'running' then append(let_go, leases[i]) end
  if is_ours and verb == 'done' then
    append(done, id)
  elseif is_ours and verb ~= 'running' then
    settle(verb, id, delay, text)
  end
  if is_ours and record ~= '' then append(records, {id, record, status, submitted}) end
  settled[i] = is_ours and 1 or 0
end

if #let_go > 0 then redis.call('ZREM', key('leases'), unpack(let_go)) end
if #done > 0 then
  redis.call('HDEL', key('tasks'), unpack(done))
  redis.call('SREM', key('cancelled'), unpack(done))
end
if #records > 0 then keep_records(ns, records, ttl, now) end
return settled
