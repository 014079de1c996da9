-- Sets the lease of the node ARGV[1] to ARGV[2] milliseconds, and returns whether it had one.
local e = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '0')
local kept = e > now
if ARGV[2] ~= '0' or kept then redis.call('ZADD', KEYS[1], decimal(now + ARGV[2]), ARGV[1]) end
return {kept and '1' or '0'}
