-- Claims the id ARGV[1] for the holder ARGV[2] for ARGV[3] milliseconds. The answers are "mine",
-- "other", "full", and "done" with the reply.
local v = redis.call('HGET', KEYS[2], ARGV[1])
if isReply(v) then
  local window, reply = split(v)
  use(ARGV[1])
  keep(ARGV[1], window)
  return {'done', reply}
end
if v and v ~= 'h' .. ARGV[2] then return {'other', ''} end
if not v then
  if not room() then return {'full', ''} end
  redis.call('HSET', KEYS[2], ARGV[1], 'h' .. ARGV[2])
end
keep(ARGV[1], tonumber(ARGV[3]))
return {'mine', ''}
