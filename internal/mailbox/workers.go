package mailbox

import (
	"runtime"
	"sync"
)

// Workers is the goroutines that many mailboxes share. There are as many as mailboxes have work, at most: one that is done with a mailbox goes on with
// the next, on a stack that has grown to what the work needs. A function that blocks holds up its own mailbox only, since somebody else is
// there for those that wait. When there is nothing to do the goroutines end. The zero Workers is ready.
type Workers struct {
	mu      sync.Mutex
	queue   fifo[worker] // those that wait
	free    int          // goroutines that are about to look into the queue; at least one if somebody waits
	running sync.WaitGroup
}

// Wait returns when no goroutine is left. No mailbox may be given work meanwhile, but by the workers's own work.
func (c *Workers) Wait() { c.running.Wait() }

// worker is a Mailbox, whatever its items.
type worker interface{ work() }

func (c *Workers) add(w worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue.push(w)
	if c.free == 0 {
		c.hire()
	}
}

func (c *Workers) hire() {
	c.free++
	c.running.Add(1)
	go c.work()
}

// work works off one mailbox after another. When none waits it gives way once before it ends: those who have something to read, say, are
// about to fill mailboxes, and none of them then needs to start a goroutine. A new one goes first, since its stack has yet to grow.
func (c *Workers) work() {
	defer c.running.Done() // also after a Goexit
	c.mu.Lock()
	for gaveWay, isNew := false, true; ; {
		switch w := c.next(); {
		case w != nil:
			c.free--
			if !c.queue.empty() && c.free == 0 {
				c.hire()
			}
			c.mu.Unlock()
			w.work()
			c.mu.Lock()
			c.free++
			gaveWay, isNew = false, false
		case gaveWay || isNew && c.free > 1:
			c.free--
			c.mu.Unlock()
			return
		default:
			c.mu.Unlock()
			runtime.Gosched()
			c.mu.Lock()
			gaveWay = true
		}
	}
}

// maxIdleQueue keeps a queue that once was long from staying.
const maxIdleQueue = 1024

// next takes the mailbox that has waited longest, nil if there is none. The caller holds mu.
func (c *Workers) next() worker {
	q := &c.queue
	if q.empty() {
		return nil
	}
	w := q.pop()
	if q.empty() {
		q.all, q.head = q.all[:0], 0
		if cap(q.all) > maxIdleQueue {
			q.all = nil
		}
	}
	return w
}
