-- A visit to the board that instances share: notes who was there, writes lines, tells how many there are and who else
-- came lately.
--
-- KEYS: the board, who was there. ARGV: this instance, after how many ms others count as away, for how many ms a line
-- is kept, how many instances to tell at most; then for each line: its moment (ms), its text.
--
-- Who came is judged by Redis' own clock, so that instances whose clocks differ agree. Both keys expire if nobody
-- comes any more.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for at = 5, #ARGV, 2 do
  redis.call('ZADD', KEYS[1], 'NX', ARGV[at], ARGV[at + 1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - 86400000)
redis.call('PEXPIRE', KEYS[2], 86400000)
local reply = redis.call('ZRANGE', KEYS[2], '(' .. now - ARGV[2], '+inf', 'BYSCORE', 'LIMIT', 0, ARGV[4])
table.insert(reply, 1, redis.call('ZCARD', KEYS[1]))
return reply
