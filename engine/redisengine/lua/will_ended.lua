-- Returns the nodes whose lease has ended, each with its end.
local found = {}
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', decimal(now), 'LIMIT', '0', ARGV[1])) do
  found[#found + 1] = node
  found[#found + 1] = decimal(tonumber(redis.call('ZSCORE', KEYS[1], node)))
end
return found
