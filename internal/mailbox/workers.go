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
	queue   fifo.Queue[runnable] // mailboxes that wait for a goroutine
	free    int                  // goroutines about to look into the queue; at least one if it is not empty
	running sync.WaitGroup
}

// Wait returns when no goroutine is left. Meanwhile nothing may be enqueued in a mailbox of the
// pool, except by functions that the pool runs.
func (p *Workers) Wait() { p.running.Wait() }

// runnable is a Mailbox of any type that has work.
type runnable interface{ work() }

func (p *Workers) add(m runnable) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue.Push(m)
	if p.free == 0 {
		p.startOne()
	}
}

func (p *Workers) startOne() {
	p.free++
	p.running.Add(1)
	go p.work()
}

// work runs one mailbox after another. If none waits, it yields once before it returns: goroutines
// that are about to fill mailboxes, such as those that read connections, then need not start a new
// one. A goroutine that has not run anything returns without yielding if another one is free,
// because its stack has not grown yet.
func (p *Workers) work() {
	defer p.running.Done() // also after a Goexit
	p.mu.Lock()
	for yielded, isNew := false, true; ; {
		switch m := p.next(); {
		case m != nil:
			p.free--
			if p.queue.Len() > 0 && p.free == 0 {
				p.startOne()
			}
			p.mu.Unlock()
			m.work()
			p.mu.Lock()
			p.free++
			yielded, isNew = false, false
		case yielded || isNew && p.free > 1:
			p.free--
			p.mu.Unlock()
			return
		default:
			p.mu.Unlock()
			runtime.Gosched()
			p.mu.Lock()
			yielded = true
		}
	}
}

// maxIdleQueue is the largest array that an empty queue keeps.
const maxIdleQueue = 1024

// next returns the mailbox that has waited longest, or nil if there is none. The caller holds mu.
func (p *Workers) next() runnable {
	if p.queue.Len() == 0 {
		return nil
	}
	m := p.queue.Pop()
	if p.queue.Len() == 0 {
		p.queue.Clear(maxIdleQueue)
	}
	return m
}
