-- Tells a cell who is in it and who has left it. Of what is known of a driver here, the newest fix holds: a late one
-- neither brings back who has left, nor takes away who has come back.
--
-- KEYS: positions, drivers, seen, marks. ARGV: when each of them expires (s), the field of the count in `marks`, this
--       attempt, then for each driver: id, geohash score (empty: it is elsewhere), packed fix.

local FIRST, FIELDS = 7, 3

local ids = {}
for at = FIRST, #ARGV, FIELDS do
  ids[#ids + 1] = ARGV[at]
end
local stored = redis.call('HMGET', KEYS[3], unpack(ids))

local positions, here, gone, seen = {}, {}, {}, {}
for n, id in ipairs(ids) do
  local at = FIRST + (n - 1) * FIELDS
  local score, fix = ARGV[at + 1], ARGV[at + 2]
  if not stored[n] or not is_greater(stored[n], fix) then
    seen[#seen + 1] = id
    seen[#seen + 1] = fix
    if score == '' then
      gone[#gone + 1] = id
    else
      here[#here + 1] = id
      positions[#positions + 1] = score
      positions[#positions + 1] = id
    end
  end
end

if #here > 0 then
  redis.call('ZADD', KEYS[1], unpack(positions))
  redis.call('EXPIREAT', KEYS[1], ARGV[1])
  redis.call('SADD', KEYS[2], unpack(here))
  redis.call('EXPIREAT', KEYS[2], ARGV[2])
end
if #gone > 0 then
  redis.call('ZREM', KEYS[1], unpack(gone))
  redis.call('SREM', KEYS[2], unpack(gone))
end
if #seen > 0 then
  redis.call('HSET', KEYS[3], unpack(seen))
  redis.call('EXPIREAT', KEYS[3], ARGV[3])
end
count_call(KEYS[4], ARGV[4], ARGV[5], ARGV[6])
