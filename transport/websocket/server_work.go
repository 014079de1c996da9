package websocket

import (
	"runtime"
	"time"

	"bennu.example/internal/mailbox"
)

// The bits of serverConn.reader.
const (
	readerRuns   = 1 << iota // a goroutine is the reader, or is about to be
	readerBusy               // it does not read now, so it does not know whether the client is silent
	readerAgain              // more may have arrived since it last began to read
	readerProbes             // it reads until the kernel says that nothing is left: see readNow
)

const (
	maxReads     = 16                     // of one connection, before it is another one's turn
	libraryPause = 200 * time.Millisecond // how long a client pauses before its connection gives up the library
)

// startReading makes the poller wait for the client. Where there is no poller for it, the
// connection gets a goroutine. The caller counts as the reader until then.
func (c *serverConn) startReading() {
	if c.raw != nil {
		if p := c.s.getPoller(); p != nil {
			c.watched = p.watch(c)
		}
	}
	switch {
	case !c.watched:
		go c.run()
	case c.in != nil || !c.goIdle():
		c.s.readers.Add(c)
	}
}

// notify notes that there may be something to read, and whether the reader must probe from now on.
// It returns true if there was no reader: the caller is the reader then, and must add c to
// Server.readers. Any goroutine may call it.
func (c *serverConn) notify(probe bool) bool {
	bits := uint32(readerRuns | readerAgain)
	if probe {
		bits |= readerProbes
	}
	return c.reader.Or(bits)&readerRuns == 0
}

// wake makes a reader look whether there is something to read, or the network connection was
// closed. Any goroutine may call it.
func (c *serverConn) wake() {
	if c.notify(false) {
		c.s.readers.Add(c)
	}
}

// goIdle ends the work of the reader. It returns false if there may be something to read. If it
// returns true, the caller is not the reader any more: there may be another one already.
func (c *serverConn) goIdle() bool {
	for {
		bits := c.reader.Load()
		if bits&readerAgain != 0 {
			return false
		}
		if c.reader.CompareAndSwap(bits, bits&^readerRuns) {
			return true
		}
	}
}

// Work is called by a goroutine of Server.readers, which is the reader of c then, when there may be
// something to read. It passes what has arrived to the session. After maxReads, it is other
// connections' turn, and c waits for a reader again.
//
// If the last message is one for an idle mailbox, Work runs that itself, when it is not the reader
// any more, so the mailbox may block. Other mailboxes run on other goroutines.
func (c *serverConn) Work() {
	for range maxReads {
		c.reader.And(^uint32(readerAgain))
		drained, err := c.readNow()
		var next mailbox.Pending
		for err == nil && c.pending() {
			if next != nil {
				next.Start()
			}
			next, err = c.message()
		}
		if err == nil && drained {
			c.watchPause()
			if c.goIdle() {
				if next != nil {
					next.Work()
				}
				return
			}
		}
		if next != nil {
			next.Start()
		}
		if err != nil {
			c.finish(err)
			return
		}
		runtime.Gosched() // otherwise clients that never pause keep the processors
	}
	c.s.readers.Add(c)
}

// readNow reads what there is, without waiting, unless there is input already. It reports whether
// that was everything: the kernel returned less than there was room for.
//
// There are exceptions, which the poller reports by events other than EPOLLIN. The end of the
// client's side is behind what it sent, and a read ends at TCP's urgent data. If there was such an
// event, only a read that finds nothing means that nothing is left.
func (c *serverConn) readNow() (drained bool, err error) {
	if c.pending() {
		return false, nil
	}
	c.dontWait = true
	err = c.raw.Read(c.fill)
	c.dontWait = false
	if err != nil {
		return false, c.readFailed(err)
	}
	return c.in == nil || c.in.w < len(c.in.buf) && c.reader.Load()&readerProbes == 0, c.readErr
}

// watchPause makes the timer call Work when the client has paused, if the connection has a library
// to give up. If the client has paused already, watchPause gives it up.
func (c *serverConn) watchPause() {
	if c.lib == nil || c.deflate { // see library.drop
		return
	}
	if c.s.now()-time.Duration(c.lastReceived.Load()) >= libraryPause {
		c.dropLibrary()
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.load() == stateOpen && !c.pausing {
		c.pausing = true
		c.setDeadline(libraryPause)
	}
}

// checkPause lets Work be called if the client has paused. It returns when the timer must call it
// again. The caller holds mu, and the connection is open.
func (c *serverConn) checkPause(now time.Duration) (due time.Duration) {
	const never = 1<<63 - 1
	if due = time.Duration(c.lastReceived.Load()) + libraryPause; due > now {
		return due
	}
	c.pausing = false
	c.wake()
	return never
}
