-- Go on holding tasks.
--
-- KEYS[1]: the queue. ARGV: token of the worker, length of the lease in microseconds, then the ids.
-- Returns two lists of ids: those that this worker has lost, and those that are to be cancelled.

-- A server that has no memory left refuses what may take more, unless the script has written already: write nothing.
redis.call('ZREM', key('leases'), '')
local token, expiry = ARGV[1], as_text(server_now() + tonumber(ARGV[2]))
local lost, cancelled = {}, {}
for i = 3, #ARGV do
  local id = ARGV[i]
  if redis.call('ZSCORE', key('leases'), token .. id) then
    redis.call('ZADD', key('leases'), expiry, token .. id)
  else
    lost[#lost + 1] = id
  end
  if redis.call('SISMEMBER', key('cancelled'), id) == 1 then cancelled[#cancelled + 1] = id end
end
return {lost, cancelled}
