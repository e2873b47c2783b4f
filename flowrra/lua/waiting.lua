-- Tasks that wait: due, delayed, or for a worker that knows them.
--
-- KEYS[1]: the queue. ARGV: most of them, the name of those that are meant as JSON, or "". Returns their ids; a call by name
-- looks at so many tasks at the most.

local most, name = tonumber(ARGV[1]), ARGV[2]
local MOST_LOOKED_AT = 20000
-- Of a task's text, its name stands in that part.
local HEAD = 4096
local ids = {}

local function is_meant(id)
  if name == '' then return true end
  -- Not parsed, as all of a large one would be copied again.
  local entry = redis.call('HGET', key('tasks'), id)
  return entry and string.find(string.sub(entry, 1, HEAD), '"name":' .. name, 1, true) ~= nil
end

local function look(members, prefix)
  for _, member in ipairs(members) do
    if #ids == most then return end
    local id = string.sub(member, prefix + 1)
    if is_meant(id) then ids[#ids + 1] = id end
  end
end

local looked_at = (name == '' and most or MOST_LOOKED_AT) - 1
look(redis.call('ZRANGE', key('ready'), 0, looked_at), PLACE_LENGTH)
look(redis.call('ZRANGE', key('delayed'), 0, looked_at), 0)
for _, unknown in ipairs(redis.call('SMEMBERS', key('unknown:names'))) do
  look(redis.call('ZRANGE', unknown_of(unknown), 0, looked_at), PLACE_LENGTH)
end
return ids
