-- Removes all records of a topic and gives it another epoch. The meta lives for ARGV[2] at least.
local life = math.max(tonumber((select(8, state())) or 0), tonumber(ARGV[2]))
local top = decimal(origin())
store(fresh, top, '0000', top, '0', '0', '0', decimal(life))
redis.call('DEL', stream)
redis.call('PUBLISH', ARGV[3], '')
return redis.status_reply('OK')
