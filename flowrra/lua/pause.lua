-- Give out nothing of a queue, or of a name in all queues, any more; or do so again.
--
-- KEYS[1]: the queue; the default one if it is about a name. ARGV: 1 to pause, 0 to resume; the channel of the workers;
-- the name, or ""; the id of the request. Returns 1 if that changed anything.

local is_pause, channel, task, request = ARGV[1] == '1', ARGV[2], ARGV[3], ARGV[4]

if not is_pause then write_even_if_full() end
local answered = answer_before(request)
if answered then return tonumber(answered) end

local function change_queue()
  if not is_pause then return redis.call('DEL', key('paused')) end
  register_queue()
  return redis.call('SET', key('paused'), '1', 'NX') and 1 or 0
end

local function change_name()
  return redis.call(is_pause and 'SADD' or 'SREM', home .. ':paused:names', task)
end

local function take_up_name()
  wake_who_knows(task)
  for _, name in ipairs(redis.call('ZRANGE', home .. ':queues', 0, -1)) do
    queue = home .. '@' .. name
    wake_who_knows(task)
  end
end

local changed = task == '' and change_queue() or task ~= '' and change_name()
if not is_pause and task == '' then wake() end
if not is_pause and task ~= '' then take_up_name() end
redis.call('PUBLISH', channel, '')
return answer_always(request, changed)
