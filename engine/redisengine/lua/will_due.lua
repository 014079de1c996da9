-- Returns the names of at most ARGV[1] entries whose time has come.
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', decimal(now), 'LIMIT', '0', ARGV[1])
