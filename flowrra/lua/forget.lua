-- Forget records. KEYS[1]: the namespace. ARGV: ids. Returns how many there were.

local count = 0
for _, id in ipairs(ARGV) do
  count = count + redis.call('DEL', KEYS[1] .. ':task:' .. id)
  for _, status in ipairs(UNFINISHED) do redis.call('ZREM', KEYS[1] .. ':status:' .. status, id) end
  for status in pairs(FINISHED) do redis.call('ZREM', KEYS[1] .. ':status:' .. status, id) end
end
return count
