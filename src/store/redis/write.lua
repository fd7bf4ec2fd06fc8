-- Puts some drivers' points of one hour in. Newest wins; tracks grow.
--
-- KEYS: roster, fixes, last, marks; then of an hour that is one shard: positions, drivers; of a bucket: at; then a
--       track for each driver.
-- ARGV: the number of keys before the tracks, when each of them expires (s), the field of the count in `marks`, this
--       attempt, the newest ts (ms), whether the points may have come before ('1'); then for each driver: id, geohash
--       score (of a bucket: cell), packed fix, track chunk (may be empty), when its track expires (s).
--
-- Of a bucket it returns for each driver nothing if a newer fix was there, else the cells that the driver has to leave,
-- joined by commas. They stay in `at` until `left.lua` has been told that they were left.
--
-- Reading comes first, so that a key of a wrong type stops the script before it has written. Each write that may
-- create a key is followed by its EXPIREAT at once, so that an error further down leaves no key without one. `fixes`
-- decides who is new and who is newest, so it is written after what it guards; an equal fix is written again, which
-- repairs. Last of all the call counts itself.

local SHARED = tonumber(ARGV[1])
local FIRST, FIELDS = SHARED + 6, 5
local ROSTER, FIXES, LAST, MARKS, POSITIONS, DRIVERS, AT = 1, 2, 3, 4, 5, 6, 5
local is_whole = SHARED == DRIVERS
local field, attempt, newest, is_repeated = unpack(ARGV, SHARED + 2, SHARED + 5)
is_repeated = is_repeated == '1'

local function expire(key)
  redis.call('EXPIREAT', KEYS[key], ARGV[key + 1])
end

local ids = {}
for at = FIRST, #ARGV, FIELDS do
  ids[#ids + 1] = ARGV[at]
end
local stored = redis.call('HMGET', KEYS[FIXES], unpack(ids))
local last = tonumber(redis.call('GET', KEYS[LAST]) or nil)
local visited = not is_whole and redis.call('HMGET', KEYS[AT], unpack(ids))

-- The cell a driver is in now, then those it has to leave.
local function moved(visits, cell)
  local cells = { cell }
  for before in string.gmatch(visits or '', '[^,]+') do
    if before ~= cell then cells[#cells + 1] = before end
  end
  return table.concat(cells, ',')
end

local newcomers, roster, positions, fixes, visits, replies = {}, {}, {}, {}, {}, {}
for n, id in ipairs(ids) do
  local at = FIRST + (n - 1) * FIELDS
  local track, fix, chunk = KEYS[SHARED + n], ARGV[at + 2], ARGV[at + 3]
  if #chunk > 0 and redis.call('APPEND', track, chunk) == #chunk then
    redis.call('EXPIREAT', track, ARGV[at + 4])
  end
  if is_repeated or not stored[n] then
    newcomers[#newcomers + 1] = id
    roster[#roster + 1], roster[#roster + 2] = 0, id
  end
  replies[n] = false
  if not stored[n] or not is_greater(stored[n], fix) then
    local free = #fixes
    fixes[free + 1], fixes[free + 2] = id, fix
    positions[free + 1], positions[free + 2] = ARGV[at + 1], id
    if not is_whole then
      local now = moved(visited[n], ARGV[at + 1])
      visits[free + 1], visits[free + 2] = id, now
      replies[n] = string.match(now, '^[^,]*,?(.*)$')
    end
  end
end

if #newcomers > 0 then
  if is_whole then
    redis.call('SADD', KEYS[DRIVERS], unpack(newcomers))
    expire(DRIVERS)
  end
  redis.call('ZADD', KEYS[ROSTER], unpack(roster))
  expire(ROSTER)
end
if #fixes > 0 then
  if is_whole then
    redis.call('ZADD', KEYS[POSITIONS], unpack(positions))
    expire(POSITIONS)
  else
    redis.call('HSET', KEYS[AT], unpack(visits))
    expire(AT)
  end
  redis.call('HSET', KEYS[FIXES], unpack(fixes))
  expire(FIXES)
end
if not last or last < tonumber(newest) then
  redis.call('SET', KEYS[LAST], newest)
  expire(LAST)
end
count_call(KEYS[MARKS], ARGV[MARKS + 1], field, attempt)
return is_whole and #fixes / 2 or replies
