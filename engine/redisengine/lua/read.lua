-- Reads records from ARGV[3] to ARGV[4] by the command ARGV[2], at most ARGV[5], and no further one
-- after ARGV[6] bytes. It returns the base epoch, the time, the meta if there is one, whether there
-- is a stream, and then for each record its id, its head and the record. It changes nothing.
local count, most = tonumber(ARGV[5]), tonumber(ARGV[6])
local reply = {
  redis.call('GET', base), decimal(now), redis.call('GET', meta),
  redis.call('EXISTS', stream),
}
if not reply[3] then return reply end
local first, last, size, done = ARGV[3], ARGV[4], 0, 0
while done < count and size < most do
  local part = redis.call(ARGV[2], stream, first, last, 'COUNT', math.min(32, count - done))
  for _, entry in ipairs(part) do
    local fields = entry[2]
    reply[#reply + 1] = entry[1]
    reply[#reply + 1] = fields[2]
    reply[#reply + 1] = fields[4]
    size = size + #fields[4]
    done = done + 1
    if size >= most then break end
  end
  if #part < 32 then break end
  local offset = tonumber(string.match(part[#part][1], '^%d+'))
  if ARGV[2] == 'XRANGE' then first = decimal(offset + 1) else first = decimal(offset - 1) end
end
return reply
