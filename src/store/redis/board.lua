-- A visit to the board that instances share: notes who was there and how it stands, writes lines; tells how many lines
-- there are, the epoch, and of each instance, those first that came last: id, how many ms ago, how it stands (may be
-- empty).
--
-- KEYS: the board, who was there, how each stands, the epoch. ARGV: this instance, for how many ms a line is kept, how
-- many instances to tell at most, the newest epoch that this instance knows of (0: none), how it stands (empty: it does
-- not say); then for each line: its moment (ms), its text.
--
-- The epoch is a number that grows with every loss: whoever finds none makes one that is newer than any that it knows
-- of, and whoever knows of a newer one puts that here. How an instance stands, it says of one epoch.
--
-- Who came is judged by Redis' own clock, so that instances whose clocks differ agree. All keys expire if nobody
-- comes any more.

local LINES = 6
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local instance, keep, known = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4])

for at = LINES, #ARGV, 2 do
  redis.call('ZADD', KEYS[1], 'NX', ARGV[at], ARGV[at + 1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - keep)
redis.call('PEXPIRE', KEYS[1], keep)

redis.call('ZADD', KEYS[2], now, instance)
redis.call('PEXPIRE', KEYS[2], keep)
local over = redis.call('ZRANGE', KEYS[2], '-inf', now - keep, 'BYSCORE')
if #over > 0 then
  redis.call('ZREM', KEYS[2], unpack(over))
  redis.call('HDEL', KEYS[3], unpack(over))
end

local epoch = tonumber(redis.call('GET', KEYS[4]) or nil)
if not epoch or epoch < known then
  epoch = epoch and known or math.max(now * 1000, known + 1)
  redis.call('SET', KEYS[4], string.format('%.0f', epoch), 'PX', keep)
else
  redis.call('PEXPIRE', KEYS[4], keep)
end

if ARGV[5] ~= '' then
  redis.call('HSET', KEYS[3], instance, ARGV[5])
  redis.call('PEXPIRE', KEYS[3], keep)
end
local seen, ids, roll = redis.call('ZRANGE', KEYS[2], '+inf', '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, ARGV[3], 'WITHSCORES'), {}, {}
for at = 1, #seen, 2 do
  ids[#ids + 1] = seen[at]
end
local words = redis.call('HMGET', KEYS[3], unpack(ids))
for n, id in ipairs(ids) do
  roll[3 * n - 2], roll[3 * n - 1], roll[3 * n] = id, now - seen[2 * n], words[n] or ''
end
return { redis.call('ZCARD', KEYS[1]), string.format('%.0f', epoch), roll }
