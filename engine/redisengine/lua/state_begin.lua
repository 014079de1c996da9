-- The beginning of every script about an object. KEYS are those of the object: its meta, the items
-- by key, the keys in order, the revisions, the deadlines, the writes with an ID, and their order;
-- then that of the base epoch, that of the deadlines of all objects, and that of their number. ARGV
-- begins with a random epoch, in case that one is needed, the name of the object, and its channel.
local meta, items, order, revisions, deadlines, writes, recent = unpack(KEYS, 1, 7)
local base, due, number = KEYS[8], KEYS[9], KEYS[10]
local fresh, name, channel = unpack(ARGV, 1, 3)
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- decimal formats an integer. Lua's own conversion uses an exponent.
local function decimal(n) return string.format('%.0f', n) end

-- pack encodes texts.
local function pack(texts)
  for i, text in ipairs(texts) do texts[i] = #text .. ':' .. text end
  return table.concat(texts)
end

-- absent returns the position of an object that does not exist.
local function absent()
  local epoch = redis.call('GET', base)
  if not epoch then
    epoch = fresh
    redis.call('SET', base, epoch)
  end
  return epoch .. ' 0 0000'
end

-- load returns the object, or nil. Its numbers are the newest revision, the oldest revision that is
-- remembered, the one from which on the age of deletions was not looked at, the newest deletion that
-- is not remembered, the items and their bytes, the deadline or 0, and the limit of revisions.
local function load()
  local fields = '^(%w+) (%d+) (%w+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$'
  local epoch, rev, tag, first, scanned, floor, count, bytes, expires, keep =
    string.match(redis.call('GET', meta) or '', fields)
  if not epoch then return nil end
  return {
    epoch = epoch, rev = tonumber(rev), tag = tag, first = tonumber(first), scanned = tonumber(scanned),
    floor = tonumber(floor), count = tonumber(count), bytes = tonumber(bytes), expires = tonumber(expires),
    keep = tonumber(keep),
  }
end

local function save(o)
  redis.call('SET', meta, o.epoch .. ' ' .. decimal(o.rev) .. ' ' .. o.tag .. ' ' .. decimal(o.first) .. ' ' ..
    decimal(o.scanned) .. ' ' .. decimal(o.floor) .. ' ' .. decimal(o.count) .. ' ' .. decimal(o.bytes) .. ' ' ..
    decimal(o.expires) .. ' ' .. decimal(o.keep))
end

local function position(o) return o.epoch .. ' ' .. decimal(o.rev) .. ' ' .. o.tag end

local function passed(expires) return expires ~= 0 and expires <= now end

-- parse decodes an item: its revision, its deadline or 0, '-' or why it was deleted, the bytes of the
-- writer, the writer, and the value.
local function parse(raw)
  if not raw then return nil end
  local rev, expires, deleted, size, at = string.match(raw, '^(%d+) (%d+) (%S+) (%d+) ()')
  size = tonumber(size)
  return {
    rev = tonumber(rev), expires = tonumber(expires), deleted = deleted,
    writer = string.sub(raw, at, at + size - 1), value = string.sub(raw, at + size),
  }
end

local function load_item(key) return parse(redis.call('HGET', items, key)) end

local function live(it) return it ~= nil and it.deleted == '-' and not passed(it.expires) end

-- entry decodes a revision: its number, its tag, its time, '+', '-' for a deletion or '/' for that of
-- a subtree, and the key.
local function entry(member)
  local rev, tag, at, kind, start = string.match(member, '^(%d+) (%w+) (%d+) (%S) ()')
  return {rev = tonumber(rev), tag = tag, at = tonumber(at), kind = kind, key = string.sub(member, start)}
end

-- advance gives the object a new revision.
local function advance(o, tag, kind, key)
  o.rev, o.tag = o.rev + 1, tag
  redis.call('ZADD', revisions, decimal(o.rev), decimal(o.rev) .. ' ' .. tag .. ' ' .. decimal(now) .. ' ' .. kind .. ' ' .. key)
end

-- exported returns an item for others. Without a value it may be nil.
local function exported(o, key, from, it, under)
  local deleted = it.deleted == '-' and '' or it.deleted
  return {key, from, decimal(o.rev), deleted, under and '1' or '0', decimal(it.expires), it.writer, it.value or ''}
end

-- put stores an item, whose predecessor may be nil, as the newest one.
local function put(o, tag, key, old, it)
  local kind = it.deleted == '-' and '+' or '-'
  advance(o, tag, kind, key)
  if it.expires ~= 0 then
    redis.call('ZADD', deadlines, decimal(it.expires), key)
  elseif old and old.expires ~= 0 then
    redis.call('ZREM', deadlines, key)
  end
  redis.call('HSET', items, key, decimal(o.rev) .. ' ' .. decimal(it.expires) .. ' ' .. it.deleted .. ' ' ..
    #it.writer .. ' ' .. it.writer .. it.value)
  if kind == '+' then
    redis.call('ZADD', order, '0', key)
  elseif old then
    redis.call('ZREM', order, key)
  end
end

-- message encodes a change: the positions before and after, why the object is gone, and its items.
local function message(before, after, gone, list)
  local texts = {before, after, gone}
  for _, it in ipairs(list) do
    for _, text in ipairs(it) do texts[#texts + 1] = text end
  end
  return pack(texts)
end

-- objects returns how many objects there are.
local function objects() return tonumber(redis.call('GET', number) or 0) end

-- remove removes the object.
local function remove(o, reason)
  local others = objects() - 1
  if others > 0 then
    redis.call('SET', number, decimal(others))
  else
    redis.call('UNLINK', number)
  end
  redis.call('UNLINK', meta, items, order, revisions, deadlines, writes, recent)
  redis.call('ZREM', due, name)
  redis.call('PUBLISH', channel, message(position(o), absent(), reason, {}))
end

-- current is load, and removes an object whose time has come.
local function current()
  local o = load()
  if o and passed(o.expires) then
    remove(o, 'expired')
    return nil
  end
  return o
end

-- remember remembers a text by an ID, and when, in a hash and a list of the IDs, oldest first. It
-- forgets those that are older than age, and beyond most of them.
local function remember(hash, list, id, text, age, most)
  local at = decimal(now)
  redis.call('HSET', hash, id, at .. ' ' .. text)
  redis.call('RPUSH', list, at .. ' ' .. id)
  for _ = 1, 4 do
    local oldest = redis.call('LINDEX', list, 0)
    if not oldest then break end
    local made, start = string.match(oldest, '^(%d+) ()')
    if redis.call('LLEN', list) <= most and tonumber(made) > now - age then break end
    redis.call('LPOP', list)
    local old = string.sub(oldest, start)
    if string.match(redis.call('HGET', hash, old) or '', '^%d+') == made then redis.call('HDEL', hash, old) end
  end
end

-- agenda stores when something of the object expires next.
local function agenda(o)
  local at = o.expires
  local first = redis.call('ZRANGE', deadlines, 0, 0, 'WITHSCORES')[2]
  if first and (at == 0 or tonumber(first) < at) then at = tonumber(first) end
  if at == 0 then
    redis.call('ZREM', due, name)
  else
    redis.call('ZADD', due, decimal(at), name)
  end
end

-- trim forgets revisions beyond the limit, and deletions that are too old.
local function trim(o, age)
  local function forget(e)
    if e.kind == '/' then
      o.floor = math.max(o.floor, e.rev)
    elseif e.kind == '-' then
      local it = load_item(e.key)
      if it and it.rev == e.rev then
        redis.call('HDEL', items, e.key)
        o.floor = math.max(o.floor, e.rev)
      end
    end
  end
  local excess = math.min(o.rev - o.first + 1 - o.keep, 1024)
  if excess > 0 then
    for _, member in ipairs(redis.call('ZRANGE', revisions, 0, excess - 1)) do forget(entry(member)) end
    redis.call('ZREMRANGEBYRANK', revisions, 0, excess - 1)
    o.first = o.first + excess
  end
  o.scanned = math.max(o.scanned, o.first)
  local part
  for _ = 1, 32 do
    part = redis.call('ZRANGEBYSCORE', revisions, decimal(o.scanned), '+inf', 'LIMIT', 0, 16)
    for _, member in ipairs(part) do
      local e = entry(member)
      if e.at > now - age then return end
      forget(e)
      o.scanned = e.rev + 1
    end
    if #part < 16 then return end
  end
end
