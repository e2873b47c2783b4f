-- Note which workers' connections are not there.
--
-- KEYS[1]: the default queue. ARGV: the run of the server that was asked, then token and connection of each that it doesn't
-- have. Returns the tokens of those that have been gone for so long that their holds are to be ended, each followed by its
-- connection; and the names of the queues beside the default one.

local run, now, gone = ARGV[1], server_now(), {}
-- Workers whose holds are ended in one go: whoever does it has leases of its own to renew.
local MOST = 10
local MOST_QUEUES = 1000

for i = 2, #ARGV, 2 do
  local token, connection = ARGV[i], ARGV[i + 1]
  local is_its_own = redis.call('HGET', connections, token) == connection
  local since, noted = string.match(redis.call('HGET', missing, token) or '', '^(%d+) (.*)$')
  if not is_its_own then
    -- It has told of another one meanwhile.
  elseif string.match(connection, '^%x+') ~= run then
    forget_connection(token)  -- ids begin anew with a server: whoever lives tells of its new one
  elseif noted ~= connection or tonumber(since) > now then
    redis.call('HSET', missing, token, as_text(now) .. ' ' .. connection)
  elseif #gone < 2 * MOST and is_long_gone(token, connection, now) then
    append(gone, token, connection)
  end
end
return {gone, #gone > 0 and redis.call('ZRANGE', default_queue .. ':queues', 0, MOST_QUEUES - 1) or {}}
