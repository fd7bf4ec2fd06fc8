-- Makes cells known as those of an hour. Returns a list of what `count_call` does.
--
-- KEYS: cells, atlas, marks. ARGV: when each of them expires (s), the instance, this attempt, the attempt known to be
--       complete, what was reached then, whether it may have come before; then cells.

for n = 9, #ARGV do
  local is_new = redis.call('SADD', KEYS[1], ARGV[n]) == 1
  if is_new or ARGV[8] == '1' then redis.call('EXPIREAT', KEYS[1], ARGV[1]) end
  if is_new then redis.call('RPUSH', KEYS[2], ARGV[n]) end
  if is_new or ARGV[8] == '1' then redis.call('EXPIREAT', KEYS[2], ARGV[2]) end
end
return { count_call(KEYS[3], unpack(ARGV, 3, 8)) }
