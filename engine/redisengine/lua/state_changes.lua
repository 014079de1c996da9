-- Reads what changed after the revision ARGV[4], in the order of revisions: at most ARGV[5] changes,
-- and no further one after ARGV[6] bytes. It returns the position of an object that does not exist,
-- and if there is one its position, the oldest revision that is remembered, the newest deletion that
-- is not, the tag of revision ARGV[4] or an empty text, the position of the last change that was
-- looked at, '1' if there are more, and the changes.
local after, most, size = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local o = load()
if not o or passed(o.expires) then return {absent()} end
local known = redis.call('ZRANGEBYSCORE', revisions, after, after)[1]
local reply = {
  absent(), position(o), decimal(o.first), decimal(o.floor), known and entry(known).tag or '', '', '0',
}
local done, used, from = 0, 0, '(' .. after
while most > 0 do
  local part = redis.call('ZRANGEBYSCORE', revisions, from, '+inf', 'LIMIT', 0, 64)
  for _, member in ipairs(part) do
    local e = entry(member)
    local it = e.kind == '/' and {rev = e.rev, deleted = 'deleted', expires = 0, writer = '', value = ''} or load_item(e.key)
    if it and it.rev == e.rev then
      if done >= most or used >= size then
        reply[7] = '1'
        return reply
      end
      if it.deleted == '-' and passed(it.expires) then -- the deletion itself follows
        it = {deleted = 'expired', expires = 0, writer = '', value = ''}
      end
      done, used = done + 1, used + #e.key + #it.value
      local deleted = it.deleted == '-' and '' or it.deleted
      for _, text in ipairs({
        e.key, '', decimal(e.rev), deleted, e.kind == '/' and '1' or '0', decimal(it.expires), it.writer, it.value,
      }) do
        reply[#reply + 1] = text
      end
    end
    reply[6] = o.epoch .. ' ' .. decimal(e.rev) .. ' ' .. e.tag
    from = '(' .. decimal(e.rev)
  end
  if #part < 64 then return reply end
end
return reply
