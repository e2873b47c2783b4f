-- Keeping a task's record. `ns` is the namespace, such as "flowrra".
--
--   <ns>:task:<id>                the record, JSON; a finished one expires
--   <ns>:status:<status>          ids by time of submission (sorted set), for listing
--   <ns>:status:<status>:<name>   the same of the tasks of one name
--   <ns>:listed                   set of "<status> <name>" for which there may be such a list
--   <ns>:finished:<ttl>           "<expiry> <status> <label> <id>" of finished ones whose records last for so many
--                                 milliseconds, in the order of their end, for unlisting
--   <ns>:finished:ttls            set of those numbers: processes may have different ones
--   <ns>:finished                 the same of an earlier version, of any; without a label before there were lists by name
--   <ns>:retried:<id>             the id under which it was run anew; expires with its record
--   <ns>:complete:<id>            channel on which its end is told; on a cluster to who listens in its shard, as else all
--                                 nodes would have to be told
--   <ns>:watched                  says that somebody watches; expires
--   <ns>:changes                  stream of changes while somebody watches: number, and the task as JSON without its
--                                 arguments and result; none where nothing was told before
--   <ns>:changes:number           number of the last one, by which a reader knows what it has missed
--
-- A label is a name with the number of its bytes before it, "<bytes>:<name>", so that it may contain anything. Times are
-- microseconds of the server's clock.

-- A second key is that of a cluster, see redis_cluster.py.
local PUBLISH = KEYS[2] and 'SPUBLISH' or 'PUBLISH'
local UNFINISHED = {'pending', 'running', 'retrying'}
local FINISHED = {success = true, failed = true, cancelled = true}
-- More expired entries are unlisted than new ones are listed, so that none are left over.
local UNLIST_MORE = 20
-- One in so many calls looks at a list of another ttl, whose processes may be gone.
local LOOK_ELSEWHERE = 16
-- A record lasts up to a millisecond longer than its entry says, as the server counts its time in milliseconds: one that
-- was unlisted while it is still there would stay in the index of its status for good.
local UNLIST_LATER = 10000

-- The name and the id at the end of a line, "<label> <id>", of which a pattern with (%d+):(.*)$ took both parts. The error
-- repeats nothing of the line: an id or a name in it could pass for one of the server's own reasons, such as OOM.
local function read_label(bytes, rest)
  if not bytes then error('a line is not of the expected form') end
  bytes = tonumber(bytes)
  return string.sub(rest, 1, bytes), string.sub(rest, bytes + 2)
end

local function label_of(name)
  return #name .. ':' .. name
end

-- The namespace, of the key that a script names which is about records alone, "<ns>:records": users may be let to what begins
-- with "<ns>:", and to nothing else.
local function namespace_of(records_key)
  return string.match(records_key, '^(.*):records$')
end

-- ── lists ────────────────────────────────────────────────────────────────────────────────────────────────────

local function status_list(ns, status)
  return ns .. ':status:' .. status
end

local function name_list(ns, status, name)
  return ns .. ':status:' .. status .. ':' .. name
end

local function forget_list_if_empty(ns, status, name)
  if redis.call('EXISTS', name_list(ns, status, name)) == 0 then
    redis.call('SREM', ns .. ':listed', status .. ' ' .. name)
  end
end

-- Take tasks off the lists of that status by all names but one.
local function unlist_by_other_names(ns, status, name, ids)
  for _, listed in ipairs(redis.call('SMEMBERS', ns .. ':listed')) do
    local its_status, its_name = string.match(listed, '^(%l+) (.*)$')
    if its_status == status and its_name ~= name then
      redis.call('ZREM', name_list(ns, status, its_name), unpack(ids))
      forget_list_if_empty(ns, status, its_name)
    end
  end
end

local function forget_empty_lists(ns, name)
  for _, status in ipairs(UNFINISHED) do forget_list_if_empty(ns, status, name) end
  for status in pairs(FINISHED) do forget_list_if_empty(ns, status, name) end
end

-- List tasks of one name; `scored` is times of submission, each followed by an id.
local function list(ns, status, name, scored)
  local added = redis.call('ZADD', status_list(ns, status), unpack(scored))
  if redis.call('ZADD', name_list(ns, status, name), unpack(scored)) ~= added then
    local ids = {}
    for i = 2, #scored, 2 do ids[#ids + 1] = scored[i] end
    unlist_by_other_names(ns, status, name, ids)
  end
  redis.call('SADD', ns .. ':listed', status .. ' ' .. name)
end

-- Take tasks off the lists: what is in one by name is in that of its status. One whose name is unknown, or was another
-- before, is found by that.
local function unlist(ns, status, name, ids)
  local removed = redis.call('ZREM', status_list(ns, status), unpack(ids))
  if removed == 0 then return end
  if redis.call('ZREM', name_list(ns, status, name), unpack(ids)) ~= removed then
    unlist_by_other_names(ns, status, name, ids)
  end
end

-- ── watching ─────────────────────────────────────────────────────────────────────────────────────────────────

local MOST_CHANGES = 10000
local CHANGES_TTL = 3600 * 1000
-- Of a record that is larger, only what is known without reading it is told.
local MOST_READ = 256 * 1024
local MOST_ERROR = 1000
local TOLD = {'submitted_at', 'started_at', 'finished_at', 'retries', 'error', 'worker', 'queue', 'retry_of', 'progress'}

local function keep_changes(ns)
  redis.call('PEXPIRE', ns .. ':changes', CHANGES_TTL)
  redis.call('PEXPIRE', ns .. ':changes:number', CHANGES_TTL)
end

local function add_change(ns, fields)
  local number = redis.call('INCR', ns .. ':changes:number')
  redis.call('XADD', ns .. ':changes', 'MAXLEN', '~', MOST_CHANGES, '*', 'number', number, unpack(fields))
end

-- What is told of a task, as JSON.
local function change_of(id, record, status, name)
  local change = {task_id = id, task_name = name, status = status}
  local is_readable, fields = false, nil
  if #record <= MOST_READ then is_readable, fields = pcall(cjson.decode, record) end
  if is_readable and type(fields) == 'table' then
    for _, key in ipairs(TOLD) do change[key] = fields[key] end
    if type(change.error) == 'string' and #change.error > MOST_ERROR then
      -- Without the last letter, which may be cut.
      change.error = string.gsub(string.sub(change.error, 1, MOST_ERROR), '[\194-\244]?[\128-\191]*$', '')
    end
  end
  return cjson.encode(change)
end

local function is_watched(ns)
  return redis.call('EXISTS', ns .. ':watched') == 1
end

-- Tell who watches of records that were kept, each as in `keep_records`. Whatever another program wrote there, tasks go on.
local function tell(ns, records)
  for _, each in ipairs(records) do
    pcall(function() add_change(ns, {'task', change_of(each[1], each[2], each[3], each[5])}) end)
  end
end

-- Fail where another program has written what can't be a list, before anything is written; `names` are the keys of a table.
local function look_at_lists(ns, status, names)
  redis.call('SCARD', ns .. ':listed')
  redis.call('ZCARD', status_list(ns, status))
  for name in pairs(names) do redis.call('ZCARD', name_list(ns, status, name)) end
end

-- ── keeping ──────────────────────────────────────────────────────────────────────────────────────────────────

-- A task's name: that one, or, if it is unknown, as the record has it that is kept now.
local function name_of(ns, id, name)
  if name ~= '' then return name end
  local is_readable, fields = pcall(cjson.decode, redis.call('GET', ns .. ':task:' .. id) or '')
  return is_readable and type(fields) == 'table' and type(fields.task_name) == 'string' and fields.task_name or ''
end

-- The status, name and id of an entry of `finished`, and when its record expires.
local function read_finished(entry)
  local expiry, status, rest = string.match(entry, '^(%d+) (%l+) (.*)$')
  if not expiry then return end
  local bytes, labelled = string.match(rest, '^(%d+):(.*)$')
  if bytes then
    local name, id = read_label(bytes, labelled)
    return tonumber(expiry), status, name, id
  end
  return tonumber(expiry), status, '', rest
end

-- Whether a record says that status; one that can't be read may say any.
local function says(record, status)
  local is_readable, fields = pcall(cjson.decode, record)
  return not is_readable or type(fields) ~= 'table' or fields.status == status
end

local function finished_list(ns, ttl)
  return ns .. ':finished:' .. ttl
end

-- Unlist what has expired of one list, at most so much. Returns how much more it could have been.
local function unlist_expired_in(ns, finished, most, now)
  for count = 1, most do
    local oldest = redis.call('LINDEX', finished, 0)
    if not oldest then return most - count + 1 end
    local expiry, status, name, id = read_finished(oldest)
    if expiry and expiry + UNLIST_LATER > now then return most - count + 1 end
    redis.call('LPOP', finished)
    -- A record that was written again is still there. That of a task which was submitted anew is on another list.
    local record = expiry and redis.pcall('GET', ns .. ':task:' .. id)
    if expiry and not (record and says(record, status)) then
      unlist(ns, status, name, {id})
      if name == '' and not record then
        -- Whoever wrote it left the task on the list by name that it was on before its end.
        for _, other in ipairs(UNFINISHED) do unlist_by_other_names(ns, other, name, {id}) end
      end
      if redis.call('EXISTS', name_list(ns, status, name)) == 0 then forget_empty_lists(ns, name) end
    end
  end
  return 0
end

-- Unlist what has expired of these ttls, and of what an earlier version has left.
local function unlist_expired_of(ns, ttls, most, now)
  most = unlist_expired_in(ns, ns .. ':finished', most, now)
  for _, ttl in ipairs(ttls) do
    most = unlist_expired_in(ns, finished_list(ns, ttl), most, now)
    if redis.call('EXISTS', finished_list(ns, ttl)) == 0 then redis.call('SREM', ns .. ':finished:ttls', ttl) end
  end
end

-- Unlist what has expired; `count` is how many records were just listed.
local function unlist_expired(ns, ttl, count, now)
  unlist_expired_in(ns, finished_list(ns, as_text(ttl)), count + UNLIST_MORE, now)
  if now % LOOK_ELSEWHERE == 0 then
    local other = redis.call('SRANDMEMBER', ns .. ':finished:ttls')
    unlist_expired_of(ns, {other or nil}, count + UNLIST_MORE, now)
  end
end

-- Plan when finished records are unlisted.
local function plan_unlisting(ns, ttl, entries)
  if redis.call('RPUSH', finished_list(ns, ttl), unpack(entries)) == #entries then
    redis.call('SADD', ns .. ':finished:ttls', ttl)
  end
end

-- List records that were kept, in groups of one status and name, and take their tasks off the lists that they were on. What
-- another program has written in place of one list costs that list alone.
local function list_kept(ns, groups, ttl)
  for _, group in pairs(groups) do
    for _, other in ipairs(UNFINISHED) do
      if other ~= group.status then pcall(unlist, ns, other, group.name, group.ids) end
    end
    pcall(list, ns, group.status, group.name, group.scored)
    if FINISHED[group.status] then pcall(plan_unlisting, ns, as_text(ttl), group.entries) end
  end
end

-- Keep records in place of what was known of their tasks. Each is {id, record, status, submitted, name}: `submitted`
-- orders the lists. `ttl` is in milliseconds, and counts for finished ones only. Where another program has written what is no
-- list, they are kept all the same: whoever lists them is told.
local function keep_records(ns, records, ttl, now)
  local last, groups = {}, {}
  for _, each in ipairs(records) do last[each[1]] = each end
  for _, each in ipairs(records) do
    local id, record, status, submitted = each[1], each[2], each[3], each[4]
    if last[id] == each then
      local name = name_of(ns, id, each[5])
      local group_name = status .. ' ' .. name
      local group = groups[group_name]
      if not group then
        group = {status = status, name = name, ids = {}, scored = {}, entries = {}}
        group.ending = table.concat({as_text(now + ttl * 1000), status, label_of(name), ''}, ' ')
        groups[group_name] = group
      end
      group.ids[#group.ids + 1] = id
      append(group.scored, submitted, id)
      if FINISHED[status] then
        redis.call('SET', ns .. ':task:' .. id, record, 'PX', ttl)
        group.entries[#group.entries + 1] = group.ending .. id
        redis.call(PUBLISH, ns .. ':complete:' .. id, 'done')
      else
        redis.call('SET', ns .. ':task:' .. id, record)
      end
    end
  end
  list_kept(ns, groups, ttl)
  if is_watched(ns) then tell(ns, records) end
  pcall(unlist_expired, ns, ttl, #records, now)
end
