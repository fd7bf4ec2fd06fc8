-- Counts a call in `marks`, under the attempt it belongs to. After the writes, so that it stands for them.
local function count_call(marks, expiry, field, attempt)
  local calls = redis.call('HGET', marks, field)
  local before = calls and string.match(calls, '^' .. attempt .. ':(%d+)$') or 0
  redis.call('HSET', marks, field, attempt .. ':' .. before + 1)
  redis.call('EXPIREAT', marks, expiry)
end

