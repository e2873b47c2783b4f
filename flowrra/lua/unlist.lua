-- Unlist what has expired, as nobody may write any more who does that beside. KEYS[1]: as for namespace_of.

local ns = namespace_of(KEYS[1])
local MOST_UNLISTED = 2000

unlist_expired_of(ns, redis.call('SMEMBERS', ns .. ':finished:ttls'), MOST_UNLISTED, server_now())
return 1
