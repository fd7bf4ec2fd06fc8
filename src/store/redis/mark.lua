-- Moves an instance's mark in a shard, if nothing was lost.
--
-- KEYS: marks. ARGV: the field of the mark, the field of the count, what the mark must not be below (empty: there
--       need be none), what it shall be, what the count must be.
--
-- The count comes with the writes, so it is there exactly if they all are. A mark that is higher than expected is this
-- instance's own too: of a move whose answer was lost, or of a run before.

local stored = redis.call('HMGET', KEYS[1], ARGV[1], ARGV[2])
local held, calls = tonumber(stored[1] or nil), stored[2]
local expected, reached = tonumber(ARGV[3]), tonumber(ARGV[4])
if calls ~= ARGV[5] then return 0 end
if expected and (not held or held < expected) then return 0 end
if not held or held < reached then redis.call('HSET', KEYS[1], ARGV[1], ARGV[4]) end
redis.call('HDEL', KEYS[1], ARGV[2])
return 1
