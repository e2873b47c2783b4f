-- Take the tasks that are next, and lease them.
--
-- KEYS[1]: the queue. ARGV: most tasks to take, token of the worker, length of the lease in microseconds.
-- Returns: microseconds until more may be due or lapse, -1 if nothing is foreseen; then for each task taken: id,
-- deliveries before this one that ended without an outcome, microseconds since it has been due, whether it is to be
-- cancelled, payload.

local limit, token, lease = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local now = server_now()
-- How many are moved at once, so that no call takes long.
local BATCH = 200

local function finite(value)
  return type(value) == 'number' and value - value == 0 and value or 0
end

-- What flowrra 0.1.8 left; it pushed on the left. What can't be read gets an id of ours: whoever takes it buries it.
for _, payload in ipairs(redis.call('RPOP', queue, BATCH) or {}) do
  local is_readable, task = pcall(cjson.decode, payload)
  if not is_readable or type(task) ~= 'table' then task = {} end
  local place = new_place()
  local id = type(task.id) == 'string' and task.id or ('unreadable-' .. place)
  if redis.call('HEXISTS', key('tasks'), id) == 0 then
    make_ready(id, string.format('%.17g', finite(task.priority)), 0, place, as_text(now), payload)
  end
end

-- What has become due.
local due = redis.call('ZRANGEBYSCORE', key('delayed'), '-inf', as_text(now), 'WITHSCORES', 'LIMIT', 0, BATCH)
for i = 1, #due, 2 do
  local id, entry = due[i], read_entry(due[i])
  redis.call('ZREM', key('delayed'), id)
  if entry then
    make_ready(id, entry.priority, entry.deliveries, new_place(), as_text(tonumber(due[i + 1])), entry.payload)
  end
end

-- What a worker held that has not been heard of since: it keeps its place.
local lapsed = redis.call('ZRANGEBYSCORE', key('leases'), '-inf', as_text(now), 'WITHSCORES', 'LIMIT', 0, BATCH)
for i = 1, #lapsed, 2 do
  local id = string.sub(lapsed[i], TOKEN_LENGTH + 1)
  local entry = read_entry(id)
  redis.call('ZREM', key('leases'), lapsed[i])
  if entry then
    local since = as_text(tonumber(lapsed[i + 1]))
    make_ready(id, entry.priority, entry.deliveries + 1, entry.place, since, entry.payload)
  end
end

local answer = {-1}
local popped = limit > 0 and redis.call('ZPOPMIN', key('ready'), limit) or {}
if #popped > 0 then
  local ids, leases = {}, {}
  for i = 1, #popped, 2 do
    local id = string.sub(popped[i], PLACE_LENGTH + 1)
    ids[#ids + 1] = id
    leases[#leases + 1] = as_text(now + lease)
    leases[#leases + 1] = token .. id
  end
  redis.call('ZREM', key('since'), unpack(ids))
  redis.call('ZADD', key('leases'), unpack(leases))
  local entries = redis.call('HMGET', key('tasks'), unpack(ids))
  local cancelled = redis.call('SMISMEMBER', key('cancelled'), unpack(ids))
  for i, id in ipairs(ids) do
    local entry = entries[i] and parse_entry(entries[i])
    if entry then
      answer[#answer + 1] = id
      answer[#answer + 1] = entry.deliveries
      answer[#answer + 1] = math.max(0, now - tonumber(entry.since))
      answer[#answer + 1] = cancelled[i]
      answer[#answer + 1] = entry.payload
    else
      redis.call('ZREM', key('leases'), token .. id)
    end
  end
end

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
