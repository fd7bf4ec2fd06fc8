-- Begins a slice: notes the newest moment of the shard, and counts. Tracks of drivers who were there, and are gone, are made
-- with an expiry, before anything is appended.
--
-- KEYS: last, marks, then tracks. ARGV: when the first two expire (s), the instance, this attempt, the attempt known to be
--       complete, what was reached then, whether the points may have come before ('1'), the newest ts of the slice (ms).
--
-- Returns a list of what `count_call` does.

if #KEYS > 2 and redis.call('EXISTS', unpack(KEYS, 3)) < #KEYS - 2 then
  -- Never in the past: what is appended would then begin a track without an expiry.
  local expiry = math.max(ARGV[1], redis.call('TIME')[1] + 600)
  for n = 3, #KEYS do redis.call('SET', KEYS[n], '', 'NX', 'EXAT', expiry) end
end
local last = tonumber(redis.call('GET', KEYS[1]) or nil)
if not last or last < tonumber(ARGV[8]) then
  redis.call('SET', KEYS[1], ARGV[8], 'EXAT', ARGV[1])
elseif ARGV[7] == '1' then
  redis.call('EXPIREAT', KEYS[1], ARGV[1])
end
return { count_call(KEYS[2], unpack(ARGV, 2, 7)) }
