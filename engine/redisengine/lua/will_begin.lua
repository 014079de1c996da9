-- The beginning of the scripts for wills.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- decimal formats an integer. Lua's own conversion uses an exponent.
local function decimal(n) return string.format('%.0f', n) end

