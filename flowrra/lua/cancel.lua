-- Cancel a task, or ask its holder to.
--
-- KEYS[1]: the queue. ARGV: namespace of the records, id, record or "" if it is kept elsewhere, status, time of
-- submission, name, ttl, channel of the holders or "" if it is cancelled only while nobody holds it, id of the request.
-- Returns "cancelled"; "running" if its holder was asked; "asked" if it had been asked before, or is not to be; "unknown"
-- if it isn't in the queue.

look_at_keys()
local ns, id, record, request = ARGV[1], ARGV[2], ARGV[3], ARGV[9]
local answered = answer_before(request)
if answered then return answered end
local entry = read_entry(id)
if not entry then return 'unknown' end
if take_from_waiting(id, entry.place) then
  forget_task(id)
  if record == '' then
    remember_end(id, '')
  else
    keep_records(ns, {{id, record, ARGV[4], ARGV[5], ARGV[6]}}, tonumber(ARGV[7]), server_now())
  end
  return answer_always(request, 'cancelled')
end
if ARGV[8] == '' or redis.call('SADD', key('cancelled'), id) == 0 then return 'asked' end
redis.call('PUBLISH', ARGV[8], id)
return answer_always(request, 'running')
