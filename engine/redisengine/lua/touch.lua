-- Renews the meta of a watched topic, which lives for ARGV[2] if the topic has no record. It returns
-- the epoch, the offset and the tag of the top, and how long the meta lives.
local epoch, top, tag, _, _, _, _, life = state()
if epoch then
  redis.call('PEXPIRE', meta, life)
else
  epoch, top, tag, life = birth(), decimal(origin()), '0000', ARGV[2]
  store(epoch, top, tag, top, '0', '0', '0', life)
end
return {epoch, top, tag, life}
