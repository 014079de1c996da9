-- Removes an object. ARGV[4] is the ID of the removal or empty, then come how long IDs are remembered
-- in milliseconds, how many, and '1' if replicas are waited for. KEYS[11] and KEYS[12] remember them.
-- It returns whether there was an object, or 2 if it was removed before with this ID.
local id, age, most, wait = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local hash, list = KEYS[11], KEYS[12]
local o = current()
if id ~= '' then
  local at = tonumber(string.match(redis.call('HGET', hash, id) or '', '^%d+'))
  if at and at > now - age then
    -- WAIT waits for the writes of its connection only, and another one may have made this.
    if wait == '1' then redis.call('PEXPIRE', hash, age) end
    return 2
  end
end
if not o then return 0 end
remove(o, 'removed')
if id ~= '' then
  remember(hash, list, id, '', age, most)
  redis.call('PEXPIRE', hash, age)
  redis.call('PEXPIRE', list, age)
end
return 1
