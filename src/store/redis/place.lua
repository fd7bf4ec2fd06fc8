-- Tells a cell who is in it and who has left it. Of what is known of a driver here, the newest fix holds: a late one
-- neither brings back who has left, nor takes away who has come back. Told of nobody, it only counts. Returns a list of what
-- `count_call` does.
--
-- KEYS: positions, drivers, seen, marks. ARGV: when each of them expires (s), the instance, this attempt, the attempt
--       known to be complete, what was reached then, whether it may have come before; then for each driver: id,
--       geohash score (empty: it is elsewhere), packed fix.
--
-- Each write that may create a key is followed by its EXPIREAT at once: one that added nothing, or only some of its
-- members, found the key there.

local FIRST, FIELDS = 10, 3
local is_repeated = ARGV[9]

local ids, count = {}, 0
for at = FIRST, #ARGV, FIELDS do
  count = count + 1
  ids[count] = ARGV[at]
end
local stored = count > 0 and redis.call('HMGET', KEYS[3], unpack(ids))

-- Counted by hand: `#` would look for the end of the table each time.
local positions, here, gone, seen = {}, {}, {}, {}
local heres, gones, newer = 0, 0, 0
for n = 1, count do
  local at = FIRST + (n - 1) * FIELDS
  local id, fix, known = ids[n], ARGV[at + 2], stored[n]
  if not known or not is_newer(known, fix) then
    local score = ARGV[at + 1]
    seen[2 * newer + 1], seen[2 * newer + 2] = id, fix
    newer = newer + 1
    if score == '' then
      gones = gones + 1
      gone[gones] = id
    else
      positions[2 * heres + 1], positions[2 * heres + 2] = score, id
      heres = heres + 1
      here[heres] = id
    end
  end
end

if heres > 0 then
  local added = redis.call('ZADD', KEYS[1], unpack(positions))
  expire_new(KEYS[1], added, heres, ARGV[1], is_repeated)
  -- Both always have the same members.
  if added > 0 or is_repeated == '1' then
    expire_new(KEYS[2], redis.call('SADD', KEYS[2], unpack(here)), heres, ARGV[2], is_repeated)
  end
end
if gones > 0 then
  redis.call('ZREM', KEYS[1], unpack(gone))
  redis.call('SREM', KEYS[2], unpack(gone))
end
if newer > 0 then
  expire_new(KEYS[3], redis.call('HSET', KEYS[3], unpack(seen)), newer, ARGV[3], is_repeated)
end
return { count_call(KEYS[4], unpack(ARGV, 4, 9)) }
