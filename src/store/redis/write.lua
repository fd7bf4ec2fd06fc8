-- Puts some drivers' points of one hour in. Newest wins; tracks grow.
--
-- KEYS: roster, fixes, last, marks; then of an hour that is one shard: positions, drivers; of a bucket: at; then a
--       track for each driver.
-- ARGV: the number of keys before the tracks, when each of them expires (s), the instance, this attempt, the attempt
--       known to be complete, what was reached then, whether the points may have come before ('1'), the newest
--       ts (ms); then for each driver: id, geohash score (of a bucket: cell), packed fix, track chunk (may be empty), when
--       its track expires (s).
--
-- Returns what `count_call` does; then of a bucket for each driver nothing if a newer fix was there, else the cells that
-- the driver has to leave, joined by commas. They stay in `at` until `left.lua` has been told that they were left.
--
-- Reading comes first, so that a key of a wrong type stops the script before it has written. Each write that may
-- create a key is followed by its EXPIREAT at once, so that an error further down leaves no key without one: a write
-- that added nothing, or only some of its members, found the key there. Points that may have come before set every
-- expiry again, for the retention may have become longer since. `fixes` decides who is new and who is newest,
-- so it is written after what it guards; an equal fix is written again, which repairs. Last of all the call counts
-- itself.

local SHARED = tonumber(ARGV[1])
local FIRST, FIELDS = SHARED + 8, 5
local ROSTER, FIXES, LAST, MARKS, POSITIONS, DRIVERS, AT = 1, 2, 3, 4, 5, 6, 5
local is_whole = SHARED == DRIVERS
local instance, attempt, known, reached, is_repeated, newest = unpack(ARGV, SHARED + 2, SHARED + 7)

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

local newcomers, roster, positions, fixes, visits, replies = {}, {}, {}, {}, {}, { false }
for n, id in ipairs(ids) do
  local at = FIRST + (n - 1) * FIELDS
  local track, fix, chunk, held = KEYS[SHARED + n], ARGV[at + 2], ARGV[at + 3], stored[n]
  local is_made = #chunk > 0 and redis.call('APPEND', track, chunk) == #chunk
  if is_made or is_repeated == '1' then redis.call('EXPIREAT', track, ARGV[at + 4]) end
  if is_repeated == '1' or not held then
    newcomers[#newcomers + 1] = id
    roster[#roster + 1], roster[#roster + 2] = 0, id
  end
  local reply = false
  if not held or not is_newer(held, fix) then
    local free = #fixes
    fixes[free + 1], fixes[free + 2] = id, fix
    if is_whole then
      positions[free + 1], positions[free + 2] = ARGV[at + 1], id
    elseif visited[n] == ARGV[at + 1] then
      reply = ''
    else
      local now = moved(visited[n], ARGV[at + 1])
      visits[#visits + 1] = id
      visits[#visits + 1] = now
      reply = string.match(now, '^[^,]*,?(.*)$')
    end
  end
  replies[n + 1] = reply
end

local function expire_if_new(key, added, written)
  expire_new(KEYS[key], added, written, ARGV[key + 1], is_repeated)
end

if #newcomers > 0 then
  if is_whole then expire_if_new(DRIVERS, redis.call('SADD', KEYS[DRIVERS], unpack(newcomers)), #newcomers) end
  expire_if_new(ROSTER, redis.call('ZADD', KEYS[ROSTER], unpack(roster)), #newcomers)
end
if #positions > 0 then
  expire_if_new(POSITIONS, redis.call('ZADD', KEYS[POSITIONS], unpack(positions)), #positions / 2)
end
if #visits > 0 then
  expire_if_new(AT, redis.call('HSET', KEYS[AT], unpack(visits)), #visits / 2)
elseif is_repeated == '1' and not is_whole then
  redis.call('EXPIREAT', KEYS[AT], ARGV[AT + 1])
end
if #fixes > 0 then expire_if_new(FIXES, redis.call('HSET', KEYS[FIXES], unpack(fixes)), #fixes / 2) end
if not last or last < tonumber(newest) then
  redis.call('SET', KEYS[LAST], newest, 'EXAT', ARGV[LAST + 1])
elseif is_repeated == '1' then
  redis.call('EXPIREAT', KEYS[LAST], ARGV[LAST + 1])
end
replies[1] = count_call(KEYS[MARKS], ARGV[MARKS + 1], instance, attempt, known, reached, is_repeated)
return is_whole and { replies[1] } or replies
