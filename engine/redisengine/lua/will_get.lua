-- Returns the value and the version of an entry, and the time.
local e = redis.call('HMGET', KEYS[1], 'v', 'n')
return {e[1] or '', e[2] or '', decimal(now)}
