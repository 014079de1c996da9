package box

import (
	"runtime"
	"sync"
)

// Crew is the goroutines that many boxes share. There are as many as boxes have work, at most: one that is done with a box goes on with
// the next, on a stack that has grown to what the work needs. A function that blocks holds up its own box only, since somebody else is
// there for those that wait. When there is nothing to do the goroutines end. The zero Crew is ready.
type Crew struct {
	mu      sync.Mutex
	queue   line[worker] // those that wait
	free    int          // goroutines that are about to look into the queue; at least one if somebody waits
	running sync.WaitGroup
}

// Wait returns when no goroutine is left. No box may be given work meanwhile, but by the crew's own work.
func (c *Crew) Wait() { c.running.Wait() }

// worker is a Box, whatever its items.
type worker interface{ work() }

func (c *Crew) add(w worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue.push(w)
	if c.free == 0 {
		c.hire()
	}
}

func (c *Crew) hire() {
	c.free++
	c.running.Add(1)
	go c.work()
}

// work works off one box after another. When none waits it gives way once before it ends: those who have something to read, say, are
// about to fill boxes, and none of them then needs to start a goroutine. A new one goes first, since its stack has yet to grow.
func (c *Crew) work() {
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

// next takes the box that has waited longest, nil if there is none. The caller holds mu.
func (c *Crew) next() worker {
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
