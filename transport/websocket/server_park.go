package websocket

import (
	"errors"
	"os"
	"time"
)

// readerState is what the reader of a connection does. The reader sets it, except that others end
// its wait.
type readerState uint32

const (
	readerReads       readerState = iota // it runs
	readerBusy                           // it does not read, so it does not know whether the client is silent
	readerWaits                          // it waits in wait, and may be interrupted
	readerInterrupted                    // the timer ended its wait, so that the connection is parked
	readerParked                         // there is none: the poller waits for the client
)

// canPark reports whether the connection has a descriptor and the system has a poller.
func (c *serverConn) canPark() bool { return c.s.parkAfter > 0 && c.raw != nil }

// park lets the server's poller wait for the client. If it returns true, the caller is not the
// reader any more: unpark may already have started the next one.
func (c *serverConn) park() bool {
	if !c.canPark() {
		return false
	}
	p := c.s.getPoller()
	if p == nil {
		return false
	}
	c.dropLibrary()
	c.active = 0
	c.reader.Store(uint32(readerParked))
	if p.arm(c) {
		return true
	}
	// The network connection was closed, or the system refuses. Nobody may have noticed yet.
	return !c.reader.CompareAndSwap(uint32(readerParked), uint32(readerReads))
}

// unpark starts a reader if the connection is parked. Any goroutine may call it.
func (c *serverConn) unpark() {
	if c.reader.CompareAndSwap(uint32(readerParked), uint32(readerReads)) {
		go c.run()
	}
}

// watchPause makes the timer call checkPause in time.
func (c *serverConn) watchPause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.load() == stateOpen && c.deadline > c.s.now()+c.s.parkAfter {
		c.setDeadline(c.s.parkAfter)
	}
}

// checkPause interrupts the reader if the client pauses. It returns when it wants to be called
// again. The caller holds mu, and the connection is open.
func (c *serverConn) checkPause(now time.Duration) (next time.Duration) {
	const never = 1<<63 - 1
	switch readerState(c.reader.Load()) {
	case readerParked, readerInterrupted:
		return never
	case readerWaits:
		if due := time.Duration(c.lastReceived.Load()) + c.s.parkAfter; due > now {
			return due
		}
		if c.reader.CompareAndSwap(uint32(readerWaits), uint32(readerInterrupted)) {
			_ = c.nc.SetReadDeadline(time.Unix(1, 0)) // if this fails, so does reading
			return never
		}
	}
	return now + c.s.parkAfter
}

// interrupted is called by the reader when its wait was interrupted and reading returned err. It
// reports whether there was nothing to read.
func (c *serverConn) interrupted(err error) bool {
	c.mu.Lock()
	_ = c.nc.SetReadDeadline(time.Time{}) // if this fails, so does reading
	c.reader.Store(uint32(readerReads))
	c.mu.Unlock()
	c.active = 0 // nobody watches its pauses any more
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	c.readErr = nil
	return true
}
