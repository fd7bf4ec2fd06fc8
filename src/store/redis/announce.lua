-- Announces that a driver is about to be erased from a shard: only the call that was announced last erases it.
--
-- KEYS: marks. ARGV: the field that tells of this driver, the name of the call.
--
-- Where nothing is, nothing needs to be announced, and a new key would be without an expiry.

if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
