-- Replaces the entry KEYS[1] of the name ARGV[1], if its version is ARGV[2], by the version ARGV[3]
-- with the value ARGV[4], the time ARGV[5] and the nodes ARGV[6]. An empty value removes it.
-- KEYS[2] has the times of the entries, and KEYS[3] the leases. ARGV[7] begins the keys of nodes.
local old = redis.call('HMGET', KEYS[1], 'n', 's')
if (old[1] or '') ~= ARGV[2] then return {'0'} end
for _, node in ipairs(cjson.decode(old[2] or '[]')) do redis.call('SREM', ARGV[7] .. node, ARGV[1]) end
redis.call('ZREM', KEYS[2], ARGV[1])
if ARGV[4] == '' then
  redis.call('DEL', KEYS[1])
  return {'1'}
end
redis.call('HSET', KEYS[1], 'n', ARGV[3], 'v', ARGV[4], 's', ARGV[6])
if ARGV[5] ~= '0' then redis.call('ZADD', KEYS[2], ARGV[5], ARGV[1]) end
for _, node in ipairs(cjson.decode(ARGV[6])) do
  redis.call('SADD', ARGV[7] .. node, ARGV[1])
  redis.call('ZADD', KEYS[3], 'NX', decimal(now), node)
end
return {'1'}
