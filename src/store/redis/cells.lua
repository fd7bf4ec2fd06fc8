-- Makes cells known as those of an hour. Returns a list of what `count_call` does.
--
-- KEYS: cells, atlas, marks. ARGV: when each of them expires (s), the instance, this attempt, the attempt known to be
--       complete, what was reached then; then cells.

for n = 8, #ARGV do
  if redis.call('SADD', KEYS[1], ARGV[n]) == 1 then
    redis.call('EXPIREAT', KEYS[1], ARGV[1])
    redis.call('RPUSH', KEYS[2], ARGV[n])
    redis.call('EXPIREAT', KEYS[2], ARGV[2])
  end
end
return { count_call(KEYS[3], unpack(ARGV, 3, 7)) }
