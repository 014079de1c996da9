package channel

// Routes map topics to the handlers that serve them. A key is an exact topic, or a prefix that
// ends in "*": "room:*" matches "room:", "room:1" and "room:a:b", and "*" matches every topic but
// those that begin with "$", which are reserved. If several keys match, the exact one wins, then
// the longest prefix. (In Phoenix, the first route that is declared wins.)
type Routes map[string]*Handler
