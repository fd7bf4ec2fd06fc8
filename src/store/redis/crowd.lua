-- Some of the members at one score, in the order of ids. Only reads.
--
-- KEYS: positions. ARGV: the score, the id after which to go on, how many at most.
--
-- Members of one score stand in the order of their bytes, so the place to go on from is found by halving: a page
-- deep in a crowd costs no more than the first, and whoever came or went in between shifts nobody past a reader.

local positions, score, after, limit = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local low = redis.call('ZCOUNT', positions, '-inf', '(' .. score)
local stop = low + redis.call('ZCOUNT', positions, score, score)
local high = stop
while low < high do
  local middle = math.floor((low + high) / 2)
  local id = redis.call('ZRANGE', positions, middle, middle)[1]
  if is_greater(id, after) then high = middle else low = middle + 1 end
end
if low == stop then return {} end
return redis.call('ZRANGE', positions, low, math.min(low + limit, stop) - 1)
