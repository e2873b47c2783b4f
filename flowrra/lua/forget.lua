-- Forget records. KEYS[1]: as for namespace_of. ARGV: ids. Returns how many there were.

local ns, count = namespace_of(KEYS[1]), 0
for _, id in ipairs(ARGV) do
  local name = name_of(ns, id, '')
  count = count + redis.call('DEL', ns .. ':task:' .. id)
  for _, status in ipairs(UNFINISHED) do unlist(ns, status, name, {id}) end
  for status in pairs(FINISHED) do unlist(ns, status, name, {id}) end
  forget_empty_lists(ns, name)
  redis.call('DEL', ns .. ':retried:' .. id)
end
return count
