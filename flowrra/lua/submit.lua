-- Add tasks, each once: an id that is known already stays as it is.
--
-- KEYS[1]: the queue. ARGV: the namespace of the records; the id of the request if records are kept elsewhere, else "": when
-- it is made again, only that tells of a task that has ended meanwhile. Then 3 for each task: "<priority> <delay in microseconds>
-- <time of submission> <milliseconds for which its id is remembered> <1 if a task of that id that has just ended is known,
-- else 0> <label> <id>", payload, record or "" if it is kept elsewhere. The label is as in records.lua. Returns 1 for each
-- task that was added, 0 for one that was known.

local ns, request, now, added = ARGV[1], ARGV[2], as_text(server_now()), {}
local listed, ready, since = {}, {}, {}
local changes = ns ~= '' and is_watched(ns) and {}
local answered = request ~= '' and answer_before(request)
if answered then
  for each in string.gmatch(answered, '%d') do append(added, tonumber(each)) end
  return added
end

local tasks, names = {}, {}
for i = 3, #ARGV, 3 do
  local line = ARGV[i]
  local priority, delay, submitted, remembered, may_have_ended, bytes, rest =
    string.match(line, '^(%S+) (%d+) (%d+) (%d+) ([01]) (%d+):(.*)$')
  local name, id = read_label(bytes, rest)
  names[name] = true
  append(tasks, {priority, delay, submitted, remembered, may_have_ended == '1', name, id})
end
look_at_keys()
redis.call('ZCARD', key('delayed'))
if ns ~= '' then look_at_lists(ns, 'pending', names) end

register_queue()
local first_place = reserve_places(#tasks)
for i, task in ipairs(tasks) do
  local priority, delay, submitted, remembered, may_have_ended, name, id = unpack(task)
  local payload, record, is_ready = ARGV[3 * i + 1], ARGV[3 * i + 2], delay == '0'
  local place = is_ready and place_text(first_place + i - 1) or NO_PLACE
  local due = is_ready and now or as_text(tonumber(now) + tonumber(delay))
  local is_new = (remembered == '0' or redis.call('EXISTS', key('once:' .. id)) == 0)
    and not (may_have_ended and redis.call('EXISTS', key('ended:' .. id)) == 1)
    and (record == '' or redis.call('SET', ns .. ':task:' .. id, record, 'NX'))
    and redis.call('HSETNX', key('tasks'), id, entry_of(priority, 0, place, due, payload)) == 1
  if is_new and remembered ~= '0' then redis.call('SET', key('once:' .. id), '1', 'PX', remembered) end
  if is_new and record ~= '' then
    local scored = listed[name]
    if not scored then
      scored = {}
      listed[name] = scored
    end
    append(scored, submitted, id)
    if changes then changes[#changes + 1] = {id, record, 'pending', submitted, name} end
  end
  if is_new and is_ready then
    append(ready, priority, place .. id)
    append(since, due, id)
  elseif is_new then
    queue_delayed(id, due)
  end
  added[#added + 1] = is_new and 1 or 0
end

for name, scored in pairs(listed) do list(ns, 'pending', name, scored) end
if changes then tell(ns, changes) end
if #ready > 0 then
  redis.call('ZADD', key('ready'), unpack(ready))
  redis.call('ZADD', key('since'), unpack(since))
  wake()
end
if request ~= '' then answer_always(request, table.concat(added)) end
return added
