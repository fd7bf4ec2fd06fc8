-- Removes one driver from one shard of an hour.
--
-- KEYS: marks, what exists as long as anybody is in the shard, then the rest of what may hold something of the driver.
-- ARGV: the driver's id, then for each key but `marks` the command that removes it there; UNLINK takes the whole key, and
-- ANEW too, but leaves an entry that says so, and TOUCH too, but is noticed by who watches it even if it is not there; then
-- when a key that begins anew expires (s), the field in `marks` that tells which call may erase this driver, the name of
-- this call. Returns 1, or 0 if another call may, or none any more: then this one comes too late, and what the driver has
-- here may be new.
--
-- All in one step, so that nobody meets half a driver. A key whose last member goes is gone, and its expiry with it:
-- then `marks` tells audits that nothing is missing, until somebody is written here again.

local expiry, field, name = ARGV[#KEYS + 1], ARGV[#KEYS + 2], ARGV[#KEYS + 3]
if redis.call('EXISTS', KEYS[1]) == 1 and redis.call('HGET', KEYS[1], field) ~= name then return 0 end
for n = 2, #KEYS do
  if ARGV[n] == 'UNLINK' then
    redis.call('UNLINK', KEYS[n])
  elseif ARGV[n] == 'TOUCH' then
    redis.call('SET', KEYS[n], '')
    redis.call('UNLINK', KEYS[n])
  elseif ARGV[n] == 'ANEW' then
    redis.call('UNLINK', KEYS[n])
    redis.call('XADD', KEYS[n], '*', 'erased', '')
    redis.call('EXPIREAT', KEYS[n], expiry)
  else
    redis.call(ARGV[n], KEYS[n], ARGV[1])
  end
end
if redis.call('EXISTS', KEYS[2]) == 0 and redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[1], 'emptied', 1)
end
redis.call('HDEL', KEYS[1], field)
return 1
