-- Tasks that wait: due, delayed, or for a worker that knows them.
--
-- KEYS[1]: the queue. ARGV: most of them, the name of those that are meant as JSON, or "". Returns their ids; a call by name
-- looks at so many tasks at the most.

local most, name = tonumber(ARGV[1]), ARGV[2]
local MOST_LOOKED_AT = 20000
-- How an entry begins, up to its task's name.
local UP_TO_NAME = '^[^|]*|%d+|%d+|%d+|{"id":%s*"(.-)",%s*"name":%s*()'
local ids = {}

-- Whether a task's own name is the one that is meant: its headers and arguments may hold any text. Not parsed, as all of a
-- large one would be copied again.
local function is_meant(id)
  if name == '' then return true end
  local entry = redis.call('HGET', key('tasks'), id) or ''
  local its_id, begin = string.match(entry, UP_TO_NAME)
  -- A quotation mark that stands in the id itself has a backslash before it.
  if not its_id or string.find(string.gsub(its_id, '\\.', ''), '"', 1, true) then return false end
  return string.sub(entry, begin, begin + #name) == name .. ','
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
