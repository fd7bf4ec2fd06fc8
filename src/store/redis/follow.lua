-- What others wrote into a shard lately. Only reads.
--
-- KEYS: changes. ARGV: the last entry that is known (empty: none, for there was none), the process that asks, how many
-- entries at most, the length below which none is ever dropped. Returns the last entry that is known now, how many there
-- were, and what others wrote; nothing if the known one is gone, or the first may be, so that some may have been missed, or
-- if a driver was erased.

local last, first, told = ARGV[1], 1, {}
if last == '' and redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[4]) then return false end
local entries = redis.call('XRANGE', KEYS[1], last == '' and '-' or last, '+', 'COUNT', ARGV[3])
if last ~= '' then
  if not entries[1] or entries[1][1] ~= last then return false end
  first = 2
end
for n = first, #entries do
  local by, what = entries[n][2][1], entries[n][2][2]
  if by == 'erased' then return false end
  last = entries[n][1]
  if by ~= ARGV[2] then told[#told + 1] = what end
end
return { last, #entries, told }
