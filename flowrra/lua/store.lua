-- Keep records. KEYS[1]: the namespace. ARGV[1]: ttl of finished ones in milliseconds. Then 2 for each record: "<status>
-- <time of submission> <label> <id>", record. Returns 1 for each, or 0 for what a server without free memory does not take on: new
-- tasks. What became of those that it has, it does.

local ns, records, kept = KEYS[1], {}, {}
-- It has no effect but to be refused.
local answer = redis.pcall('LPUSHX', ns .. ':full', '1')
local is_full = type(answer) == 'table' and answer.err and string.find(answer.err, 'OOM', 1, true)
redis.call('ZREM', ns .. ':status:pending', '')
for i = 2, #ARGV, 2 do
  local status, submitted, bytes, rest = string.match(ARGV[i], '^(%l+) (%d+) (%d+):(.*)$')
  local name, id = read_label(bytes, rest)
  name = name_of(ns, id, name)
  local is_refused = is_full and status == 'pending' and redis.call('EXISTS', ns .. ':task:' .. id) == 0
  kept[#kept + 1] = is_refused and 0 or 1
  if not is_refused then
    records[#records + 1] = {id, ARGV[i + 1], status, submitted, name}
    for other in pairs(FINISHED) do
      -- Only a user's own code writes a finished record again; tasks never do.
      if other ~= status then unlist(ns, other, name, {id}) end
    end
  end
end
keep_records(ns, records, tonumber(ARGV[1]), server_now())
return kept
