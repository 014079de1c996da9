-- Removes the lease of the node ARGV[1], if it has ended and no entry includes the node.
local e = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '0')
if e <= now and redis.call('SCARD', KEYS[2]) == 0 then redis.call('ZREM', KEYS[1], ARGV[1]) end
return {'1'}
