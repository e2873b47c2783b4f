-- Keep records. KEYS[1]: the namespace. ARGV[1]: ttl of finished ones in milliseconds. Then 2 for each record: "<status>
-- <time of submission> <id>", record.

local records = {}
for i = 2, #ARGV, 2 do
  local status, submitted, id = string.match(ARGV[i], '^(%l+) (%d+) (.*)$')
  records[#records + 1] = {id, ARGV[i + 1], status, submitted}
  for other in pairs(FINISHED) do
    -- Only a user's own code writes a finished record again; tasks never do.
    if other ~= status then redis.call('ZREM', KEYS[1] .. ':status:' .. other, id) end
  end
end
keep_records(KEYS[1], records, tonumber(ARGV[1]), server_now())
