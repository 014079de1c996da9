-- Removes an object. It returns whether there was one.
local o = current()
if not o then return 0 end
remove(o, 'removed')
return 1
