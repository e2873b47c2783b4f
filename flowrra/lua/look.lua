-- Say by which connection a worker is seen, and have one's turn to look for those of others.
--
-- KEYS[1]: the default queue. ARGV: token of the worker, its connection or "" if it is not to be judged by one.
-- Returns microseconds until its next look, then token and connection of each to look for: none while somebody just has.

local token, connection, now = ARGV[1], ARGV[2], server_now()
local looked = default_queue .. ':looked'
-- Connections that are looked for in one go; a small hash is given out as a whole.
local BATCH = 200

if connection == '' then
  forget_connection(token)
elseif redis.call('HGET', connections, token) ~= connection then
  redis.call('HSET', connections, token, connection)
  redis.call('HDEL', missing, token)
end

local pause = pause_between_looks()
local answer = {pause}
local next_at, cursor = string.match(redis.call('GET', looked) or '', '^(%d+) (%d+)$')
next_at = tonumber(next_at or 0)
-- A clock that was put back must not make it never.
if next_at > now and next_at <= now + pause then return answer end

local found = redis.call('HSCAN', connections, cursor or '0', 'COUNT', BATCH)
for i = 1, #found[2], 2 do
  local other, its_connection = found[2][i], found[2][i + 1]
  if not string.match(its_connection, '^%x+ %d+$') or #its_connection > 64 or #other ~= #token then
    forget_connection(other)  -- of another program's making
  elseif other ~= token then
    append(answer, other, its_connection)
  end
end
-- Each connection is looked at twice in a pause: whoever looks once in it, and is alone, finds each time that it is his turn.
local part = math.min(1, #found[2] / 2 / math.max(1, redis.call('HLEN', connections)))
redis.call('SET', looked, as_text(now + 0.45 * pause * part) .. ' ' .. found[1], 'EX', 3600)
return answer
