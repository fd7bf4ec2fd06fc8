-- An instance's mark in a shard, if the shard is whole; nothing otherwise.
--
-- KEYS: marks, then keys of the shard. ARGV: the field of the mark, then for each of those keys what counts it:
--       EXISTS must find it, all other counts must be the same; nothing if it only goes with the rest.
--
-- A shard that has lost a part, or has something else in the place of one, is emptied: then every instance misses its
-- mark, and brings what it has again. One that an erasure emptied misses nothing.

local held = redis.pcall('HGET', KEYS[1], ARGV[1])
if not held then return false end
if type(held) ~= 'table' and redis.call('HEXISTS', KEYS[1], 'emptied') == 1 then return held end
local size
for n = 2, #KEYS do
  local count = ARGV[n] ~= '' and redis.pcall(ARGV[n], KEYS[n])
  local is_right
  if type(held) == 'table' or type(count) == 'table' then
    is_right = false
  elseif ARGV[n] == '' then
    is_right = true
  elseif ARGV[n] == 'EXISTS' then
    is_right = count == 1
  else
    size = size or count
    is_right = count == size
  end
  if not is_right then
    redis.call('UNLINK', unpack(KEYS))
    return false
  end
end
return held
