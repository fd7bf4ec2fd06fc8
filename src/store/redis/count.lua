-- Counts a call in `marks`, under the attempt it belongs to. After the writes, so that it stands for them. A shard that
-- an erasure emptied is not empty any more.
local function count_call(marks, expiry, field, attempt)
  local stored = redis.call('HMGET', marks, field, 'emptied')
  local calls = stored[1]
  if stored[2] then redis.call('HDEL', marks, 'emptied') end
  local before = calls and string.match(calls, '^' .. attempt .. ':(%d+)$') or 0
  redis.call('HSET', marks, field, attempt .. ':' .. before + 1)
  redis.call('EXPIREAT', marks, expiry)
end

