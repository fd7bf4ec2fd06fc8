-- A page of a roster, with the last fix of each driver on it. Only reads.
--
-- KEYS: roster, fixes. ARGV: from where on (BYLEX), how many at most. Returns the ids and the packed fixes.

local ids = redis.call('ZRANGE', KEYS[1], ARGV[1], '+', 'BYLEX', 'LIMIT', 0, ARGV[2])
return { ids, #ids > 0 and redis.call('HMGET', KEYS[2], unpack(ids)) or {} }
