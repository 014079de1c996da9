-- Removes all records of a topic and gives it another epoch. The meta lives for ARGV[2] at least.
local life = math.max(tonumber(redis.call('HGET', meta, 'l') or 0), tonumber(ARGV[2]))
local top = decimal(origin())
redis.call('HSET', meta, 'e', fresh, 'o', top, 'g', '0000', 'f', top, 'c', '0', 'd', '0', 'a', '0', 'l', decimal(life))
redis.call('DEL', stream)
redis.call('PEXPIRE', meta, decimal(life))
redis.call('PUBLISH', ARGV[3], '')
return redis.status_reply('OK')
