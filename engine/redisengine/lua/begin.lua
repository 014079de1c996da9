-- The beginning of every script. KEYS are the topic's meta and stream, and the key of the base
-- epoch. ARGV[1] is a random epoch, in case that one is needed.
local meta, stream, base = KEYS[1], KEYS[2], KEYS[3]
local fresh = ARGV[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- state returns what the topic's meta has, all of it as text, or nil: the epoch, the offset and the
-- tag of the top, the offset of the beginning, the bytes of all records that the topic ever had and
-- of those that were removed, the age of the records, and how long the meta lives.
local function state()
  local fields = '^(%w+) (%d+) (%w+) (%d+) (%d+) (%d+) (%d+) (%d+)$'
  return string.match(redis.call('GET', meta) or '', fields)
end

-- store sets the meta. The arguments are those that state returns.
local function store(...)
  redis.call('SET', meta, table.concat({...}, ' '), 'PX', (select(8, ...)))
end

-- decimal formats an integer. Lua's own conversion uses an exponent.
local function decimal(n) return string.format('%.0f', n) end

-- origin returns the offset of the beginning of a topic that is born now. It grows by 2^24 an hour,
-- so that the offsets of a topic continue to grow after its meta has expired.
local function origin()
  return math.max(0, math.floor((now / 1000 - 1767225600) / 3600)) * 16777216
end

-- birth returns the epoch of a topic without a meta. Usually that is the base epoch, so that a
-- beginning that was read before the topic was born is valid. If there are records without a meta,
-- some state was lost. The records are removed, and the topic has an epoch of its own.
local function birth()
  local epoch = redis.call('GET', base)
  if not epoch then
    epoch = fresh
    redis.call('SET', base, epoch)
  end
  if redis.call('DEL', stream) == 1 then epoch = fresh end
  return epoch
end
