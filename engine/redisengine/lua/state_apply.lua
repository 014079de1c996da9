-- Performs ops, all or none. ARGV[4] is the ID or empty, then come the writer, the mode, the lifetime
-- of the object in milliseconds or 0, the limits of items, of bytes and of revisions, how long
-- deletions and IDs are remembered in milliseconds and how many IDs, how many there may be before a
-- write that changes nothing is not remembered, '1' if replicas are waited for, the tags of the
-- changes in one text, the limit of objects or 0, and eight texts for each op: its key, the key of a
-- move or empty, the value, '+' for a put, 'm' for a move or '-' for a deletion, '1' for Under, '1'
-- for Own, the condition or empty, and the lifetime in milliseconds, 0 for none, or empty.
local id, writer, mode, lifetime = ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
local most_items, most_bytes, keep = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local age, id_age, most_ids = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local most_unchanged, wait, tags, most_objects = ARGV[14], ARGV[15], ARGV[16], tonumber(ARGV[17])
local none = absent()
local o = current()

if not o and mode == 'existing' then return {'not found'} end
if o then
  local before = id ~= '' and redis.call('HGET', writes, id)
  if before then
    local at, revs, start = string.match(before, '^(%d+) ([^ ]*) ()')
    if tonumber(at) > now - id_age then
      -- WAIT waits for the writes of its connection only, and another one may have made this.
      if wait == '1' then save(o) end
      return {'again', revs, string.sub(before, start)}
    end
  end
  if mode == 'new' then return {'exists'} end
end

local ops = {}
for i = 18, #ARGV, 8 do
  ops[#ops + 1] = {
    key = ARGV[i], from = ARGV[i + 1], value = ARGV[i + 2], kind = ARGV[i + 3], under = ARGV[i + 4] == '1',
    own = ARGV[i + 5] == '1', cond = tonumber(ARGV[i + 6]), ttl = tonumber(ARGV[i + 7]),
  }
end
local function get(key) if o then return load_item(key) end end

-- The plan: nothing is changed before all conditions hold.
local count, bytes, changes = 0, 0, 0
local function leaves(key, it)
  if it and it.deleted == '-' then count, bytes = count - 1, bytes - #key - #it.value end
end
local function buries(op) return op.under and not op.skip and (op.kind == '-' or op.below) end
local function within(key, root)
  return root == '' or key == root or string.sub(key, 1, #root + 1) == root .. '\1'
end
for i, op in ipairs(ops) do
  op.item = get(op.key)
  op.live = live(op.item)
  local owned = op.live and op.item.writer == writer
  if op.under and o then
    local from, to = '[' .. op.key, '(' .. op.key .. '\2'
    if op.key == '' then from, to = '-', '+' end
    op.drops = redis.call('ZRANGEBYLEX', order, from, to)
    owned = true
    for _, key in ipairs(op.drops) do
      local it = load_item(key)
      if live(it) then
        owned = owned and it.writer == writer
        op.below = op.below or key ~= op.key
      end
    end
    owned = owned and (op.live or op.below)
  end
  if op.cond then
    local rev = op.live and op.item.rev or 0
    if rev ~= op.cond or op.below then
      return {'conflict', decimal(i - 1), decimal(rev), op.live and op.item.value or ''}
    end
  end
  if op.kind == 'm' then
    local from = get(op.from)
    if live(from) then
      op.moved, owned = from, from.writer == writer
    elseif not op.own then
      return {'not found'}
    else
      owned = false
    end
  end
  op.skip = op.own and not owned or op.kind == '-' and not op.live and not op.below
  for j = 1, i - 1 do -- what it has and what is below is deleted first
    if buries(ops[j]) and within(op.key, ops[j].key) then
      op.item, op.live, op.below, op.drops = nil, false, false, {}
    end
  end
  if buries(op) then
    changes = changes + 1
    for _, key in ipairs(op.drops) do
      if op.kind == '-' or key ~= op.key then leaves(key, load_item(key)) end
    end
  end
  if not op.skip and not (op.under and op.kind == '-') then
    local value = op.value
    if op.moved then
      value = op.moved.value
      leaves(op.from, op.moved)
      changes = changes + 1
    end
    changes = changes + 1
    leaves(op.key, op.item)
    if op.kind ~= '-' then count, bytes = count + 1, bytes + #op.key + #value end
  end
end
local has = o or {count = 0, bytes = 0, rev = 0}
if count > 0 and has.count + count > most_items then return {'quota', 'items', ARGV[8]} end
if bytes > 0 and has.bytes + bytes > most_bytes then return {'quota', 'bytes', ARGV[9]} end
if has.rev + changes + 1 > 9007199254740991 then return {'quota', 'revisions', decimal(changes)} end
local zeros = string.rep('0,', #ops)
if not o and changes == 0 and mode ~= 'new' then return {'ok', zeros, message(none, none, '', {})} end
if not o and most_objects > 0 and objects() >= most_objects then return {'quota', 'objects', ARGV[17]} end

-- The changes.
local before = o and position(o) or none
if not o then
  redis.call('SET', number, decimal(objects() + 1))
  redis.call('UNLINK', items, order, revisions, deadlines, writes, recent) -- if some state was lost
  o = {epoch = fresh, rev = 0, tag = '0000', first = 1, scanned = 1, floor = 0, count = 0, bytes = 0, expires = 0}
  if lifetime > 0 then o.expires = now + lifetime end
end
local used = 0
local function tag()
  used = used + 1
  return string.sub(tags, 4 * used - 3, 4 * used)
end
local revs, short, whole = {}, {}, {}
local function changed(key, from, it, under)
  local e = exported(o, key, from, it, under)
  whole[#whole + 1] = e
  e = {unpack(e)}
  if from == '' then e[8] = '' end
  short[#short + 1] = e
end
for i, op in ipairs(ops) do
  local rev = 0
  if op.skip then
    rev = op.item and op.item.rev or 0
  else
    if buries(op) then
      for _, key in ipairs(op.drops) do
        if op.kind == '-' or key ~= op.key then
          redis.call('HDEL', items, key)
          redis.call('ZREM', order, key)
          redis.call('ZREM', deadlines, key)
        end
      end
      advance(o, tag(), '/', op.key)
      changed(op.key, '', {deleted = 'deleted', expires = 0, writer = writer}, true)
    end
    if not (op.under and op.kind == '-') then
      local it = {deleted = '-', expires = 0, writer = writer, value = op.value}
      local lasts = op.item
      if op.moved then
        it.value, lasts = op.moved.value, op.moved
        local dead = {deleted = 'deleted', expires = 0, writer = writer, value = ''}
        put(o, tag(), op.from, op.moved, dead)
        changed(op.from, '', dead, false)
      end
      if op.kind == '-' then
        it.deleted = 'deleted'
      elseif op.ttl and op.ttl > 0 then
        it.expires = now + op.ttl
      elseif not op.ttl and live(lasts) then
        it.expires = lasts.expires
      end
      put(o, tag(), op.key, op.item, it)
      changed(op.key, op.from, it, false)
    end
    rev = o.rev
  end
  revs[i] = decimal(rev) .. ','
end
if o.rev == 0 then advance(o, tag(), '+', '') end -- only created
o.count, o.bytes = o.count + count, o.bytes + bytes
o.keep = keep
trim(o, age)
save(o)
agenda(o)
local after = position(o)
local result, list = message(before, after, '', short), table.concat(revs)
local remembers = id ~= ''
if remembers and after == before then
  local at = string.match(redis.call('LINDEX', recent, '-' .. most_unchanged) or '', '^%d+')
  remembers = not at or tonumber(at) <= now - id_age
end
if remembers then remember(writes, recent, id, list .. ' ' .. result, id_age, most_ids) end
if after ~= before then redis.call('PUBLISH', channel, message(before, after, '', whole)) end
return {'ok', list, result}
