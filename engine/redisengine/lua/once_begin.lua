-- The beginning of the scripts for Once. A client and topic has three keys: KEYS[1] has the times
-- at which its ids expire, KEYS[2] their values, and KEYS[3] the order in which replies were used. A
-- value is "h" and the holder, or "r", the window, ":" and the reply. The value of "" is the size of
-- the values with replies.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local most, most_bytes, least = 1000, 4194304, 16

-- decimal formats an integer. Lua's own conversion uses an exponent.
local function decimal(n) return string.format('%.0f', n) end

local function isReply(v) return v and string.sub(v, 1, 1) == 'r' end

local function remove(id)
  local v = redis.call('HGET', KEYS[2], id)
  if isReply(v) then redis.call('HINCRBY', KEYS[2], '', -#v) end
  redis.call('HDEL', KEYS[2], id)
  redis.call('ZREM', KEYS[1], id)
  redis.call('ZREM', KEYS[3], id)
end

-- keep lets an id expire after some milliseconds, and the keys after the last id.
local function keep(id, ms)
  redis.call('ZADD', KEYS[1], decimal(now + ms), id)
  local last = redis.call('ZRANGE', KEYS[1], '-1', '-1', 'WITHSCORES')
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, decimal(tonumber(last[2]) - now + 1)) end
end

-- use makes a reply the one that was used last.
local function use(id)
  local last = redis.call('ZRANGE', KEYS[3], '-1', '-1', 'WITHSCORES')
  redis.call('ZADD', KEYS[3], decimal(tonumber(last[2] or '0') + 1), id)
end

-- oldest removes the reply that was used longest ago, if there are more than some.
local function oldest(than)
  if redis.call('ZCARD', KEYS[3]) <= than then return false end
  remove(redis.call('ZRANGE', KEYS[3], '0', '0')[1])
  return true
end

-- room makes room for another id.
local function room()
  while redis.call('ZCARD', KEYS[1]) >= most do
    if not oldest(0) then return false end
  end
  return true
end

-- split returns the window and the reply of a value.
local function split(v)
  local colon = string.find(v, ':', 2, true)
  return tonumber(string.sub(v, 2, colon - 1)), string.sub(v, colon + 1)
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', decimal(now), 'LIMIT', '0', '1000')) do
  remove(id)
end
