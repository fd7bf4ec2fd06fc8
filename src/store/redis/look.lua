-- Looks into cells of a sorted set of positions: counts who is there, or reads them with their fixes. Only reads.
--
-- KEYS: positions, a hash of the same shard with the packed fix of each member. ARGV: how many members to read at most;
--       then for each cell: its first score, the first beyond it (excluded), `ZCOUNT` or `ZRANGE`.
--
-- Returns for each cell the count; or its members and their fixes; or false if with them it would have read more than
-- it may. The first that is read is returned in any case, cut if need be.

local limit, left, replies = tonumber(ARGV[1]), tonumber(ARGV[1]), {}
for at = 2, #ARGV, 3 do
  local first, beyond, how = ARGV[at], '(' .. ARGV[at + 1], ARGV[at + 2]
  local reply = false
  if how == 'ZCOUNT' then
    reply = redis.call('ZCOUNT', KEYS[1], first, beyond)
  elseif left > 0 then
    local ids = redis.call('ZRANGE', KEYS[1], first, beyond, 'BYSCORE', 'LIMIT', 0, left)
    if #ids < left or left == limit then
      reply = { ids, #ids > 0 and redis.call('HMGET', KEYS[2], unpack(ids)) or {} }
    end
    left = left - #ids
  end
  replies[#replies + 1] = reply
end
return replies
