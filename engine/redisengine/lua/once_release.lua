-- Gives up the id ARGV[1], if the holder ARGV[2] has it and there is no reply.
if redis.call('HGET', KEYS[2], ARGV[1]) == 'h' .. ARGV[2] then remove(ARGV[1]) end
return {'', ''}
