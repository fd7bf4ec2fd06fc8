-- Removes one driver from one hour.
--
-- KEYS: positions, drivers, roster, fixes, the driver's track. ARGV: the driver's id.
--
-- All in one step, so that nobody meets half a driver. A key whose last member goes is gone, and its expiry with it.

redis.call('UNLINK', KEYS[5])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('SREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return redis.call('HDEL', KEYS[4], ARGV[1])
