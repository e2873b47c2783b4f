-- Say that a worker has ended. KEYS[1]: the queue. ARGV: its token, the namespace, the id of its process or "".

redis.call('ZREM', key('workers'), ARGV[1])
redis.call('HDEL', home .. ':connections', ARGV[1])
redis.call('HDEL', home .. ':missing', ARGV[1])
redis.call('DEL', key('names:' .. ARGV[1]), key('wake:' .. ARGV[1]))
if ARGV[3] ~= '' then
  redis.call('DEL', ARGV[2] .. ':worker:' .. ARGV[3])
  redis.call('ZREM', ARGV[2] .. ':workers', ARGV[3])
end
