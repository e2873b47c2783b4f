-- Keeping a task's record. `ns` is the namespace, such as "flowrra".
--
--   <ns>:task:<id>          the record, JSON; a finished one expires
--   <ns>:status:<status>    ids by time of submission (sorted set), for listing
--   <ns>:finished           "<expiry> <status> <id>" of finished ones, in the order of their end, for unlisting
--   <ns>:complete:<id>      channel on which its end is told
--
-- Times are microseconds of the server's clock.

local UNFINISHED = {'pending', 'running', 'retrying'}
local FINISHED = {success = true, failed = true, cancelled = true}
-- More expired entries are unlisted than new ones are listed, so that none are left over.
local UNLIST_MORE = 20
-- A record lasts up to a millisecond longer than its entry says, as the server counts its time in milliseconds: one that
-- was unlisted while it is still there would stay in the index of its status for good.
local UNLIST_LATER = 10000

-- Unlist what has expired; `count` is how many records were just listed.
local function unlist_expired(ns, count, now)
  for _ = 1, count + UNLIST_MORE do
    local oldest = redis.call('LINDEX', ns .. ':finished', 0)
    if not oldest then return end
    local expiry, status, id = string.match(oldest, '^(%d+) (%l+) (.*)$')
    if expiry and tonumber(expiry) + UNLIST_LATER > now then return end
    redis.call('LPOP', ns .. ':finished')
    -- A task of that id that was submitted anew, or whose record was written again, is still there.
    if expiry and redis.call('EXISTS', ns .. ':task:' .. id) == 0 then
      redis.call('ZREM', ns .. ':status:' .. status, id)
    end
  end
end

-- Keep records in place of what was known of their tasks. Each is {id, record, status, submitted}: `submitted` orders the
-- lists. `ttl` is in milliseconds, and counts for finished ones only.
local function keep_records(ns, records, ttl, now)
  local last, groups = {}, {}
  for _, each in ipairs(records) do last[each[1]] = each end
  for _, each in ipairs(records) do
    local id, record, status, submitted = each[1], each[2], each[3], each[4]
    if last[id] == each then
      groups[status] = groups[status] or {ids = {}, scored = {}, entries = {}}
      local group = groups[status]
      group.ids[#group.ids + 1] = id
      group.scored[#group.scored + 1] = submitted
      group.scored[#group.scored + 1] = id
      if FINISHED[status] then
        redis.call('SET', ns .. ':task:' .. id, record, 'PX', ttl)
        group.entries[#group.entries + 1] = as_text(now + ttl * 1000) .. ' ' .. status .. ' ' .. id
        redis.call('PUBLISH', ns .. ':complete:' .. id, 'done')
      else
        redis.call('SET', ns .. ':task:' .. id, record)
      end
    end
  end
  for status, group in pairs(groups) do
    for _, other in ipairs(UNFINISHED) do
      if other ~= status then redis.call('ZREM', ns .. ':status:' .. other, unpack(group.ids)) end
    end
    redis.call('ZADD', ns .. ':status:' .. status, unpack(group.scored))
    if FINISHED[status] then redis.call('RPUSH', ns .. ':finished', unpack(group.entries)) end
  end
  unlist_expired(ns, #records, now)
end
