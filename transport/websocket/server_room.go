package websocket

// Drained is part of transport.Conn.
func (c *serverConn) Drained(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.load() != stateOpen || c.s.slow.Quiet(c.queue) {
		return true
	}
	c.queue.OnQuiet = f
	return false
}

// becameQuiet returns the argument of Drained, if it is due. The caller holds mu, and must call the
// result when it has released mu. A queue is freed only after that.
func (c *serverConn) becameQuiet() (f func()) {
	if c.queue == nil {
		return func() {}
	}
	f = c.queue.OnQuiet
	if f == nil || c.load() != stateDead && !c.s.slow.Quiet(c.queue) {
		return func() {}
	}
	c.queue.OnQuiet = nil
	return f
}
