package websocket

// Drained is part of transport.Conn.
func (c *serverConn) Drained(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.load() != stateOpen || c.s.slow.HasRoom(c.queue) {
		return true
	}
	c.queue.OnRoom = f
	return false
}

// roomFunc returns the argument of Drained, if it is due. The caller holds mu, and must call the
// result when it has released mu. A queue is freed only after that.
func (c *serverConn) roomFunc() (f func()) {
	if c.queue == nil {
		return func() {}
	}
	f = c.queue.OnRoom
	if f == nil || c.load() != stateDead && !c.s.slow.HasRoom(c.queue) {
		return func() {}
	}
	c.queue.OnRoom = nil
	return f
}
