-- Returns the names of at most ARGV[1] entries of a node, at random, so that the nodes that look
-- for them do not meet.
return redis.call('SRANDMEMBER', KEYS[1], ARGV[1])
