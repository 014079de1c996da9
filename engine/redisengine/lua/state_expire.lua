-- Deletes at most ARGV[4] items of an object that have expired, or the object. ARGV[5] are the tags
-- of the changes in one text, and ARGV[6] is the age of deletions. It
-- returns how many.
local most, tags = tonumber(ARGV[4]), ARGV[5]
local o = load()
if not o then
  redis.call('ZREM', due, name)
  return 0
end
if passed(o.expires) then
  remove(o, 'expired')
  return 1
end
local before, list = position(o), {}
for i, key in ipairs(redis.call('ZRANGEBYSCORE', deadlines, '-inf', decimal(now), 'LIMIT', 0, most)) do
  local it = load_item(key)
  o.count, o.bytes = o.count - 1, o.bytes - #key - #it.value
  local dead = {deleted = 'expired', expires = 0, writer = '', value = ''}
  put(o, string.sub(tags, 4 * i - 3, 4 * i), key, it, dead)
  list[i] = exported(o, key, '', dead, false)
end
if #list > 0 then
  trim(o, tonumber(ARGV[6]))
  save(o)
  redis.call('PUBLISH', channel, message(before, position(o), '', list))
end
agenda(o)
return #list
