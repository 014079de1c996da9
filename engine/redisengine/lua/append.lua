-- Appends a record, removes what the topic may not keep, and publishes the record. KEYS[4], which is
-- optional, is the key of the record's ID. It returns the epoch, the offset and the head of the
-- record, and also the record if the ID was found.
local record, tag, size = ARGV[2], ARGV[3], tonumber(ARGV[4])
local count, most, age, life = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local channel, remember, trims, wait = ARGV[9], ARGV[10], tonumber(ARGV[11]), ARGV[12]
local epoch, top, before, first, total, removed = state()
local known = epoch

if known and KEYS[4] then
  local found = redis.call('GET', KEYS[4])
  local e, o, g = string.match(found or '', '^(%w+) (%d+) (%w+)$')
  local entry = e == epoch and redis.call('XRANGE', stream, o, o)[1]
  if entry then
    local head = entry[2][2]
    local at, ms = string.match(head, '^(%w+) %w+ (%d+)')
    if at == g and tonumber(ms) > now - age then
      -- WAIT waits for the writes of its connection only, and another one may have stored the record.
      if wait == '1' then redis.call('PEXPIRE', meta, life) end
      return {epoch, o, head, entry[2][4]}
    end
  end
end

if known then
  -- The bytes that were removed may be more, because records that exceed the count are removed
  -- unread. A look at the oldest record shows it.
  top, total, removed = tonumber(top), tonumber(total), tonumber(removed)
else
  epoch, top, before, total, removed = birth(), origin(), '0000', 0, 0
  first = decimal(top)
end
if top + 1 > 9007199254740991 then return redis.error_reply('FULL the offsets of the topic are used up') end

local length = redis.call('XLEN', stream)
local keep = math.max(count, length + 1 - trims)
local offset
local function add()
  offset = decimal(top + 1)
  local head = tag .. ' ' .. before .. ' ' .. decimal(now) .. ' ' .. ARGV[4] .. ' ' .. decimal(total + size)
  return head, redis.pcall('XADD', stream, 'MAXLEN', keep, offset .. '-0', 'm', head, 'r', record)
end
local head, added = add()
if type(added) == 'table' and string.find(added.err, 'equal or smaller') then
  -- The stream is newer than the meta, so that some state was lost.
  redis.call('DEL', stream)
  epoch, top, before, total, removed = fresh, origin(), '0000', 0, 0
  first, length, keep = decimal(top), 0, count
  head, added = add()
end
if type(added) == 'table' then return added end

total = total + size
length = length + 1
if length > keep then
  trims = trims - (length - keep)
  length = keep
end
if length == 1 then removed = total - size end -- the older records have expired together
local drop, from = 0, '-'
-- Readers skip records that are too old. Removing them only saves memory, so now and then suffices.
local sweep = (top + 1) % 8 == 0
while drop < math.min(trims, length - 1) and (sweep or total - removed > most) do
  local entry = redis.call('XRANGE', stream, from, '+', 'COUNT', 1)[1]
  local ms, n, sum = string.match(entry[2][2], '(%d+) (%d+) (%d+)$')
  removed = sum - n
  -- After a jump of the clock, the age alone removes no more than half of the records.
  local old = tonumber(ms) <= now - age and drop < length / 2
  if total - removed <= most and not old then break end
  removed = tonumber(sum)
  drop = drop + 1
  from = decimal(tonumber(string.match(entry[1], '^%d+')) + 1)
end
if drop > 0 then redis.call('XTRIM', stream, 'MAXLEN', length - drop) end

store(epoch, offset, tag, first, decimal(total), decimal(removed), ARGV[7], life)
redis.call('PEXPIRE', stream, ARGV[7])
if KEYS[4] then redis.call('SET', KEYS[4], epoch .. ' ' .. offset .. ' ' .. tag, 'PX', remember) end
redis.call('PUBLISH', channel, epoch .. ' ' .. offset .. ' ' .. head .. ' ' .. record)
return {epoch, offset, head}
