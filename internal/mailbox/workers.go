package mailbox

import (
	"runtime"
	"sync"

	"bennu.example/internal/fifo"
)

// Workers is a pool of goroutines that many mailboxes share. The zero Workers is ready to use.
//
// There are at most as many goroutines as mailboxes with work, and none if there is no work. A
// goroutine that has emptied a mailbox goes on with the next one, on a stack that has already grown
// to what the work needs. A function that blocks delays only its own mailbox, because another
// goroutine is started for the mailboxes that wait.
type Workers struct {
	mu      sync.Mutex
	queue   fifo.Queue[worker] // mailboxes that wait for a goroutine
	free    int                // goroutines about to look into the queue; at least one if it is not empty
	running sync.WaitGroup
}

// Wait returns when no goroutine is left. Meanwhile nothing may be enqueued in a mailbox of the
// pool, except by functions that the pool runs.
func (c *Workers) Wait() { c.running.Wait() }

// worker is a Mailbox of any type.
type worker interface{ work() }

func (c *Workers) add(w worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue.Push(w)
	if c.free == 0 {
		c.startOne()
	}
}

func (c *Workers) startOne() {
	c.free++
	c.running.Add(1)
	go c.work()
}

// work runs one mailbox after another. If none waits, it yields once before it returns: goroutines
// that are about to fill mailboxes, such as those that read connections, then need not start a new
// one. A goroutine that has not run anything returns without yielding if another one is free,
// because its stack has not grown yet.
func (c *Workers) work() {
	defer c.running.Done() // also after a Goexit
	c.mu.Lock()
	for yielded, isNew := false, true; ; {
		switch w := c.next(); {
		case w != nil:
			c.free--
			if c.queue.Len() > 0 && c.free == 0 {
				c.startOne()
			}
			c.mu.Unlock()
			w.work()
			c.mu.Lock()
			c.free++
			yielded, isNew = false, false
		case yielded || isNew && c.free > 1:
			c.free--
			c.mu.Unlock()
			return
		default:
			c.mu.Unlock()
			runtime.Gosched()
			c.mu.Lock()
			yielded = true
		}
	}
}

// maxIdleQueue is the largest array that an empty queue keeps.
const maxIdleQueue = 1024

// next returns the mailbox that has waited longest, or nil if there is none. The caller holds mu.
func (c *Workers) next() worker {
	if c.queue.Len() == 0 {
		return nil
	}
	w := c.queue.Pop()
	if c.queue.Len() == 0 {
		c.queue.Clear(maxIdleQueue)
	}
	return w
}
