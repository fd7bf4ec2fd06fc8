-- Makes cells known as those of an hour.
--
-- KEYS: cells, atlas, marks. ARGV: when each of them expires (s), the field of the count in `marks`, this attempt,
--       then cells.

for n = 6, #ARGV do
  if redis.call('SADD', KEYS[1], ARGV[n]) == 1 then
    redis.call('EXPIREAT', KEYS[1], ARGV[1])
    redis.call('RPUSH', KEYS[2], ARGV[n])
    redis.call('EXPIREAT', KEYS[2], ARGV[2])
  end
end
count_call(KEYS[3], ARGV[3], ARGV[4], ARGV[5])
