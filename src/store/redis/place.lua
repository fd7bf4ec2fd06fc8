-- Tells a cell who is in it and who has left it. Of what is known of a driver here, the newest fix holds: a late one
-- neither brings back who has left, nor takes away who has come back. Returns a list of what `count_call` does.
--
-- KEYS: positions, drivers, seen, marks. ARGV: when each of them expires (s), the instance, this attempt, the attempt
--       known to be complete, what was reached then, whether it may have come before; then for each driver: id,
--       geohash score (empty: it is elsewhere), packed fix.
--
-- Each write that may create a key is followed by its EXPIREAT at once: one that added nothing, or only some of its
-- members, found the key there.

local FIRST, FIELDS = 10, 3
local is_repeated = ARGV[9]

local ids = {}
for at = FIRST, #ARGV, FIELDS do
  ids[#ids + 1] = ARGV[at]
end
local stored = redis.call('HMGET', KEYS[3], unpack(ids))

local positions, here, gone, seen = {}, {}, {}, {}
for n, id in ipairs(ids) do
  local at = FIRST + (n - 1) * FIELDS
  local score, fix = ARGV[at + 1], ARGV[at + 2]
  if not stored[n] or not is_newer(stored[n], fix) then
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
  expire_new(KEYS[1], redis.call('ZADD', KEYS[1], unpack(positions)), #here, ARGV[1], is_repeated)
  expire_new(KEYS[2], redis.call('SADD', KEYS[2], unpack(here)), #here, ARGV[2], is_repeated)
end
if #gone > 0 then
  redis.call('ZREM', KEYS[1], unpack(gone))
  redis.call('SREM', KEYS[2], unpack(gone))
end
if #seen > 0 then
  expire_new(KEYS[3], redis.call('HSET', KEYS[3], unpack(seen)), #seen / 2, ARGV[3], is_repeated)
end
return { count_call(KEYS[4], unpack(ARGV, 4, 9)) }
