-- Reads items in the order of their keys, from ARGV[4] to ARGV[5], or backwards if ARGV[6] is '1': at
-- most ARGV[7], and no further one after ARGV[8] bytes. It returns the position, the deadline of the
-- object, '1' and the key of the next item if there is one, and the items.
local from, to, back, most, size = ARGV[4], ARGV[5], ARGV[6] == '1', tonumber(ARGV[7]), tonumber(ARGV[8])
local o = load()
if not o or passed(o.expires) then return {absent(), '0', '0', ''} end
local reply = {position(o), decimal(o.expires), '0', ''}
local done, used = 0, 0
while true do
  local part
  if back then
    part = redis.call('ZREVRANGEBYLEX', order, to, from, 'LIMIT', 0, 64)
  else
    part = redis.call('ZRANGEBYLEX', order, from, to, 'LIMIT', 0, 64)
  end
  for _, key in ipairs(part) do
    local it = load_item(key)
    if live(it) then
      if done >= most or used >= size then
        reply[3], reply[4] = '1', key
        return reply
      end
      done, used = done + 1, used + #key + #it.value
      for _, text in ipairs({key, decimal(it.rev), decimal(it.expires), it.writer, it.value}) do
        reply[#reply + 1] = text
      end
    end
  end
  if #part < 64 then return reply end
  if back then to = '(' .. part[64] else from = '(' .. part[64] end
end
