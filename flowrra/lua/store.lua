-- Keep records. KEYS[1]: as for namespace_of. ARGV[1]: ttl of finished ones in milliseconds. Then 2 for each record: "<status>
-- <time of submission> <label> <id>", record. Before the status of one that is kept only if no other says more there is a "+".
-- Returns 1 for each; 0 for what a server without free memory does not take on: new tasks (what became of those that it has,
-- it does); or 2 for what is not kept as another one says more.

local ns, records, kept = namespace_of(KEYS[1]), {}, {}
-- It has no effect but to be refused.
local answer = redis.pcall('LPUSHX', ns .. ':full', '1')
local is_full = type(answer) == 'table' and answer.err and string.find(answer.err, 'OOM', 1, true)
-- What is no list there is refused too, and has the script written something all the same.
answer = redis.pcall('ZREM', ns .. ':status:pending', '')
if type(answer) == 'table' and answer.err and not string.find(answer.err, 'WRONGTYPE', 1, true) then return answer end

local function fields_of(record)
  local is_readable, fields = pcall(cjson.decode, record)
  return is_readable and type(fields) == 'table' and fields or {}
end

-- Whether the record that is there says more than that of a submission: it is not of the same one, nor of one that was
-- refused. One that can't be read says nothing.
local function says_more(known, record)
  local fields = fields_of(known)
  if type(fields.status) ~= 'string' then return false end
  if fields.status == 'cancelled' then return string.find(tostring(fields.error), 'not queued: ', 1, true) ~= 1 end
  return fields.status ~= 'pending' or fields.submitted_at ~= fields_of(record).submitted_at
end

for i = 2, #ARGV, 2 do
  local mark, status, submitted, bytes, rest = string.match(ARGV[i], '^(%+?)(%l+) (%d+) (%d+):(.*)$')
  local name, id = read_label(bytes, rest)
  name = name_of(ns, id, name)
  local is_refused = is_full and status == 'pending' and redis.call('EXISTS', ns .. ':task:' .. id) == 0
  local is_known = mark == '+' and says_more(redis.pcall('GET', ns .. ':task:' .. id), ARGV[i + 1])
  kept[#kept + 1] = is_known and 2 or is_refused and 0 or 1
  if not (is_known or is_refused) then
    records[#records + 1] = {id, ARGV[i + 1], status, submitted, name}
    for other in pairs(FINISHED) do
      -- Only a user's own code writes a finished record again; tasks never do.
      if other ~= status then pcall(unlist, ns, other, name, {id}) end
    end
  end
end
keep_records(ns, records, tonumber(ARGV[1]), server_now())
return kept
