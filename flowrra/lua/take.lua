-- Take the tasks that are next, and lease them.
--
-- KEYS[1]: the queue. ARGV: most tasks to take, most bytes of theirs (one task may have more), token of the worker,
-- length of the lease in microseconds, name of the tasks that are wanted: "" for what is due and what waits for this
-- worker to know it, or a name for which tasks wait, whoever knows it.
-- Of a queue that is paused, nothing is given out that is due.
-- Returns: microseconds until more may be due or lapse, -1 if nothing is foreseen; the names of tasks that are not to be
-- begun; the number of this delivery; then for each task taken: id, deliveries before this one that ended without an outcome, microseconds since it
-- has been due, whether it is to be cancelled, payload. The payload of one that is too large is "!" and its bytes.

local limit, most_bytes, token, lease, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), ARGV[5]
local now = server_now()
-- How much is moved at once, so that no call takes long.
local BATCH = 200
local BATCH_BYTES = 8 * 1024 * 1024

look_at_keys()
write_even_if_full()

local function finite(value)
  return type(value) == 'number' and value - value == 0 and value or 0
end

-- What flowrra 0.1.8 left; it pushed on the left. What can't be read gets an id of ours: whoever takes it buries it.
local function take_over_old_tasks()
  local bytes, count = 0, 0
  while bytes < BATCH_BYTES and count < BATCH and redis.call('EXISTS', queue) == 1 do
    local place = new_place()
    local payload = redis.call('RPOP', queue)
    bytes, count = bytes + #payload, count + 1
    local is_readable, task = false, nil
    if #payload <= MOST_BYTES then is_readable, task = pcall(cjson.decode, payload) end
    if not is_readable or type(task) ~= 'table' then task = {} end
    local id = type(task.id) == 'string' and task.id or ('unreadable-' .. place)
    if redis.call('HEXISTS', key('tasks'), id) == 0 then
      make_ready(id, string.format('%.17g', finite(task.priority)), 0, place, as_text(now), payload)
    end
  end
end

local function move_what_became_due()
  local due = redis.call('ZRANGEBYSCORE', key('delayed'), '-inf', as_text(now), 'WITHSCORES', 'LIMIT', 0, BATCH)
  for i = 1, #due, 2 do
    local id, entry = due[i], read_entry(due[i])
    local place = entry and new_place()
    redis.call('ZREM', key('delayed'), id)
    if entry then
      make_ready(id, entry.priority, entry.deliveries, place, as_text(tonumber(due[i + 1])), entry.payload)
    end
  end
end

-- What a worker held that was not heard of since: it keeps its place.
local function give_back_lapsed()
  local lapsed = redis.call('ZRANGEBYSCORE', key('leases'), '-inf', as_text(now), 'WITHSCORES', 'LIMIT', 0, BATCH)
  for i = 1, #lapsed, 2 do
    local id, holder = lapsed[i], redis.call('HGET', key('holders'), lapsed[i]) or ''
    local holder_token, its_lease, is_doubted = parse_holder(holder)
    if its_lease > 0 and not is_doubted then
      redis.call('HSET', key('holders'), id, '?' .. holder)
      redis.call('ZADD', key('leases'), as_text(now + its_lease * (1 - UNDOUBTED)), id)
    else
      -- A worker that is there, and doesn't hold it, never heard that it was given it.
      local seen = redis.call('ZSCORE', key('workers'), holder_token)
      local is_gone = not seen or tonumber(seen) < now - its_lease * UNDOUBTED
      give_back(id, is_gone, tonumber(lapsed[i + 1]))
    end
  end
  -- A clock that was put back leaves holds that would outlast any lease.
  local late = redis.call('ZRANGEBYSCORE', key('leases'), '(' .. as_text(now + lease), '+inf', 'LIMIT', 0, BATCH)
  for _, id in ipairs(late) do
    local _, its_lease = parse_holder(redis.call('HGET', key('holders'), id) or '')
    if tonumber(redis.call('ZSCORE', key('leases'), id)) > now + its_lease then
      redis.call('ZADD', key('leases'), as_text(now + its_lease * UNDOUBTED), id)
    end
  end
end

-- The next ones, each a member of a sorted set, and by member the name for those that wait for this worker to know it: of
-- what is due and of what waits so, the first by priority and place.
local function next_members()
  local names, priorities, members, sources = {}, {}, {}, 0
  local function offer(source, name)
    local found = redis.call('ZRANGE', source, 0, limit - 1, 'WITHSCORES')
    for i = 1, #found, 2 do
      members[#members + 1] = found[i]
      priorities[found[i]] = tonumber(found[i + 1])
      names[found[i]] = name
    end
    if #found > 0 then sources = sources + 1 end
  end
  local unknown = {wanted}
  if wanted == '' then
    unknown = {}
    for _, name in ipairs(redis.call('SINTER', key('unknown:names'), key('names:' .. token))) do
      if not is_name_paused(name) then unknown[#unknown + 1] = name end
    end
  end
  if #unknown == 0 then return redis.call('ZRANGE', key('ready'), 0, limit - 1), names end
  if wanted == '' then offer(key('ready')) end
  look_at_unknown()
  for _, name in ipairs(unknown) do offer(unknown_of(name), name) end
  if sources > 1 then
    table.sort(members, function(one, other)
      if priorities[one] ~= priorities[other] then return priorities[one] < priorities[other] end
      return one < other
    end)
  end
  return members, names
end

local function lease_next(answer)
  local members, names = next_members()
  local ids, ready, leases, holders, too_large, bytes = {}, {}, {}, {}, {}, 0
  local tasks, ends, holder = key('tasks'), as_text(now + lease * UNDOUBTED), holder_of(token, lease, as_text(now))
  for count, member in ipairs(members) do
    local id = string.sub(member, PLACE_LENGTH + 1)
    local size = redis.call('HSTRLEN', tasks, id)
    if count > limit or (count > 1 and bytes + size > most_bytes) then break end
    if size > MOST_BYTES then too_large[id] = size else bytes = bytes + size end
    ids[count] = id
    leases[2 * count - 1], leases[2 * count] = ends, id
    holders[2 * count - 1], holders[2 * count] = id, holder
    if names[member] then
      take_from_unknown(id, string.sub(member, 1, PLACE_LENGTH))
    else
      ready[#ready + 1] = member
    end
  end
  if #ids == 0 then return end
  if #ready > 0 then
    redis.call('ZREM', key('ready'), unpack(ready))
    redis.call('ZREM', key('since'), unpack(ids))
  end
  redis.call('ZADD', key('leases'), unpack(leases))
  redis.call('HSET', key('holders'), unpack(holders))
  redis.pcall('INCRBY', key('taken'), #ids)  -- whatever another client wrote there, tasks are given out
  local cancelled = redis.call('SMISMEMBER', key('cancelled'), unpack(ids))
  local asked = {}
  for _, id in ipairs(ids) do
    if not too_large[id] then asked[#asked + 1] = id end
  end
  local entries = #asked > 0 and redis.call('HMGET', tasks, unpack(asked)) or {}
  local next_entry, length = 1, #answer
  for i, id in ipairs(ids) do
    local entry
    if too_large[id] then
      entry = {deliveries = 0, since = as_text(now), payload = '!' .. too_large[id]}
    else
      entry = entries[next_entry] and parse_entry(entries[next_entry])
      next_entry = next_entry + 1
    end
    if entry then
      answer[length + 1], answer[length + 2] = id, entry.deliveries
      answer[length + 3], answer[length + 4] = math.max(0, now - tonumber(entry.since)), cancelled[i]
      answer[length + 5] = entry.payload
      length = length + 5
    else
      end_hold(id)
    end
  end
end

take_over_old_tasks()
move_what_became_due()
give_back_lapsed()

local is_paused = redis.call('EXISTS', key('paused')) == 1
local answer = {-1, redis.call('SMEMBERS', home .. ':paused:names'), now}
if limit > 0 and (wanted ~= '' or not is_paused) then lease_next(answer) end

-- There is more than this worker takes: another one may be idle.
if redis.call('EXISTS', key('ready')) == 1 then wake() end
for _, part in ipairs({'delayed', 'leases'}) do
  local first = redis.call('ZRANGE', key(part), 0, 0, 'WITHSCORES')[2]
  if first then
    local left = math.max(0, tonumber(first) - now)
    if answer[1] < 0 or left < answer[1] then answer[1] = left end
  end
end
return answer
