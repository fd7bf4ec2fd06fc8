-- Puts some drivers' points of one hour in. Newest wins; tracks grow.
--
-- KEYS: positions, drivers, roster, fixes, last, marks, then a track for each driver.
-- ARGV: when each of the first six keys expires (s), the field of the count in `marks`, this attempt, the newest ts
--       (ms), whether the points may have come before ('1'); then for each driver: id, geohash score, packed fix,
--       track chunk (may be empty), when its track expires (s).
--
-- Reading comes first, so that a key of a wrong type stops the script before it has written. Each write that may
-- create a key is followed by its EXPIREAT at once, so that an error further down leaves no key without one. `fixes`
-- decides who is new and who is newest, so it is written after what it guards; an equal fix is written again, which
-- repairs. Last of all the call counts itself.

local FIRST, FIELDS = 11, 5

local function expire(key)
  redis.call('EXPIREAT', KEYS[key], ARGV[key])
end

local ids = {}
for at = FIRST, #ARGV, FIELDS do
  ids[#ids + 1] = ARGV[at]
end
local stored = redis.call('HMGET', KEYS[4], unpack(ids))
local last = tonumber(redis.call('GET', KEYS[5]) or nil)
local calls = redis.call('HGET', KEYS[6], ARGV[7])
local attempt, is_repeated = ARGV[8], ARGV[10] == '1'

local newcomers, roster, positions, fixes = {}, {}, {}, {}
for n, id in ipairs(ids) do
  local at = FIRST + (n - 1) * FIELDS
  local track, fix, chunk = KEYS[6 + n], ARGV[at + 2], ARGV[at + 3]
  if #chunk > 0 and redis.call('APPEND', track, chunk) == #chunk then
    redis.call('EXPIREAT', track, ARGV[at + 4])
  end
  if is_repeated or not stored[n] then
    newcomers[#newcomers + 1] = id
    roster[#roster + 1], roster[#roster + 2] = 0, id
  end
  if not stored[n] or not is_greater(stored[n], fix) then
    local free = #positions
    positions[free + 1], positions[free + 2] = ARGV[at + 1], id
    fixes[free + 1], fixes[free + 2] = id, fix
  end
end

if #newcomers > 0 then
  redis.call('SADD', KEYS[2], unpack(newcomers))
  expire(2)
  redis.call('ZADD', KEYS[3], unpack(roster))
  expire(3)
end
if #positions > 0 then
  redis.call('ZADD', KEYS[1], unpack(positions))
  expire(1)
  redis.call('HSET', KEYS[4], unpack(fixes))
  expire(4)
end
if not last or last < tonumber(ARGV[9]) then
  redis.call('SET', KEYS[5], ARGV[9])
  expire(5)
end
local before = calls and string.match(calls, '^' .. attempt .. ':(%d+)$') or 0
redis.call('HSET', KEYS[6], ARGV[7], attempt .. ':' .. before + 1)
expire(6)
return #positions / 2
