-- Of two packed fixes of one hour, whether the first is the newer. Their first three bytes are the moment, which nearly
-- always decides.
local function is_newer(a, b)
  if a == b then return false end
  local a1, a2, a3 = a:byte(1, 3)
  local b1, b2, b3 = b:byte(1, 3)
  if a3 and b3 then
    local a_ms, b_ms = (a1 * 256 + a2) * 256 + a3, (b1 * 256 + b2) * 256 + b3
    if a_ms ~= b_ms then return a_ms > b_ms end
  end
  return is_greater(a, b)
end

-- Sets when a key expires, if a write that added `added` of `written` members may have created it; of points that may
-- have come before in any case, for the retention may have become longer since.
local function expire_new(key, added, written, expiry, is_repeated)
  if added == written or is_repeated == '1' then redis.call('EXPIREAT', key, expiry) end
end

