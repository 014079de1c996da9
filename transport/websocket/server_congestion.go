package websocket

// congestion is the state of a congested connection: see transport.Conn. The fields, except for the
// channel itself, belong to the connection's lock.
type congestion struct {
	over   chan struct{} // closed when the reader may continue
	isOver bool          // over is closed
	resume func()        // the argument of Congested, or nil
}

// resumeReader lets the reader continue. The caller holds the connection's lock.
func (g *congestion) resumeReader() {
	if !g.isOver {
		g.isOver = true
		close(g.over)
	}
}

// Congested is part of transport.Conn.
func (c *serverConn) Congested(resume func()) bool {
	if c.congestion.Load() == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.congestion.Load()
	if g != nil && resume != nil {
		g.resume = resume
	}
	return g != nil
}

// awaitRoom blocks the reader while the connection is congested. If the client reads nothing
// meanwhile, WriteTimeout ends the wait.
func (c *serverConn) awaitRoom() {
	g := c.congestion.Load()
	if g == nil {
		return
	}
	c.reader.Or(readerBusy)
	for ; g != nil && c.load() == stateOpen; g = c.congestion.Load() {
		<-g.over
	}
	c.lastReceived.Store(int64(c.s.now())) // the client may have sent something long ago
	c.reader.And(^uint32(readerBusy))
}

// congest begins congestion. The caller holds mu.
func (c *serverConn) congest() {
	if c.congestion.Load() == nil {
		c.congestion.Store(&congestion{over: make(chan struct{})})
	}
}

// uncongest ends congestion, if there is any, and lets the reader continue. The caller holds mu,
// and must call the result when it has released mu.
func (c *serverConn) uncongest() (resume func()) {
	g := c.congestion.Load()
	if g == nil {
		return func() {}
	}
	c.congestion.Store(nil)
	g.resumeReader()
	if g.resume == nil {
		return func() {}
	}
	return g.resume
}
