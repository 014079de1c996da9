-- Renews the meta of a watched topic, which lives for ARGV[2] if the topic has no record. It returns
-- the epoch, the offset and the tag of the top, and how long the meta lives.
local m = redis.call('HMGET', meta, 'e', 'o', 'g', 'l')
if not m[1] then
  local top = decimal(origin())
  m = {birth(), top, '0000', ARGV[2]}
  redis.call('HSET', meta, 'e', m[1], 'o', top, 'g', m[3], 'f', top, 'c', '0', 'd', '0', 'a', '0', 'l', m[4])
end
redis.call('PEXPIRE', meta, m[4])
return m
