-- Notes that drivers have left every cell they had to leave, unless they have moved on since: then that move's writer
-- leaves them, and notes it.
--
-- KEYS: fixes, leaving. ARGV: for each driver: id, the packed fix for which the cells were left.

for n = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[n]) == ARGV[n + 1] then redis.call('HDEL', KEYS[2], ARGV[n]) end
end
