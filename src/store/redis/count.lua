-- Notes in `marks` that a call was made, after its writes, so that it stands for them. The field of an instance says
--
--   REACHED;COMPLETE;ATTEMPT:CALLS
--
-- how far its journal was put in when it began its last attempt, which attempt (ATTEMPT:CALLS) it then knew to be
-- complete, and that last attempt with the number of its calls so far. `known` and `reached` are what the instance
-- expects: `known` must be the complete attempt or the last one, whatever failed since; empty, nothing is expected.
-- `is_repeated` is '1' if the points may have come before: then the expiry is set in any case, for the retention may have
-- become longer since. Returns how many calls this makes; false if what is expected is not there, now or at an earlier call of the attempt.
-- A shard that an erasure emptied is not empty any more.
local function count_call(marks, expiry, instance, attempt, known, reached, is_repeated)
  local stored = redis.call('HMGET', marks, instance, 'emptied')
  local held = stored[1]
  if stored[2] then redis.call('HDEL', marks, 'emptied') end
  local calls, is_there, complete = 1, known == '', known
  if held then
    local there, before, last, count = string.match(held, '^(%d+);([^;]*);(%x+):(%d+)$')
    if last == attempt then
      reached, complete, calls, is_there = there, before, count + 1, before == known
    elseif before == known or held:sub(-#known - 1) == ';' .. known then
      is_there = true
    elseif known ~= '' then
      reached, complete = there or '0', ''
    end
  elseif not is_there then
    reached, complete = '0', ''
  end
  local note = reached .. ';' .. complete .. ';' .. attempt .. ':' .. calls
  if redis.call('HSET', marks, instance, note) == 1 or is_repeated == '1' then
    redis.call('EXPIREAT', marks, expiry)
  end
  return is_there and calls
end

