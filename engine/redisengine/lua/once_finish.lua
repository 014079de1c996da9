-- Records the reply ARGV[2] of the id ARGV[1] for ARGV[3] milliseconds, unless it has one. The
-- answers are "done" with the reply that counts, and "full".
local v = redis.call('HGET', KEYS[2], ARGV[1])
if isReply(v) then
  local _, reply = split(v)
  return {'done', reply}
end
if not v and not room() then return {'full', ''} end
v = 'r' .. ARGV[3] .. ':' .. ARGV[2]
redis.call('HSET', KEYS[2], ARGV[1], v)
local bytes = redis.call('HINCRBY', KEYS[2], '', #v)
use(ARGV[1])
keep(ARGV[1], tonumber(ARGV[3]))
while bytes > most_bytes and oldest(least) do bytes = tonumber(redis.call('HGET', KEYS[2], '')) end
return {'done', ARGV[2]}
