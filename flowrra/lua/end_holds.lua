-- End what a worker holds whose connection is gone, as the end of its leases would.
--
-- KEYS[1]: a queue; the default one is the last. ARGV: token and connection of the worker, where to go on, "0" at first.
-- Returns where to go on, "0" at the end, and how many tasks were given back: none if it has told of another connection.

local token, connection, cursor, now, count = ARGV[1], ARGV[2], ARGV[3], server_now(), 0
-- How many holds are looked at in one go.
local BATCH = 1000

look_at_keys()
if not is_long_gone(token, connection, now) then return {'0', 0} end
local found = redis.call('HSCAN', key('holders'), cursor, 'COUNT', BATCH)
for i = 1, #found[2], 2 do
  if is_holder(token, found[2][i + 1]) then
    give_back(found[2][i], true, now)
    count = count + 1
  end
end
if count > 0 then wake() end
if found[1] == '0' and queue == default_queue then forget_connection(token) end
return {found[1], count}
