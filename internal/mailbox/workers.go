package mailbox

import (
	"runtime"
	"sync"

	"bennu.example/internal/fifo"
)

// Workers is a pool of goroutines that many Workables share, such as mailboxes. The zero Workers is
// ready to use.
//
// There is about one goroutine for each Workable whose Work runs, and none if there is no work. A
// goroutine whose Work has returned goes on with the next Workable, on a stack that has already
// grown to what is needed. A Work that blocks delays no other, because another goroutine is started
// for those that wait.
type Workers struct {
	// Poll, if it is not nil, is called by a goroutine that has nothing to do. It calls Add if there
	// is work, and reports whether it did or there may be more. It must not block. It may be set
	// before the first Add only.
	Poll func() bool

	mu      sync.Mutex
	queue   fifo.Queue[Workable] // what waits for a goroutine
	free    int                  // goroutines about to look into the queue; at least one if it is not empty
	running int                  // all goroutines
	ended   *sync.Cond           // on mu: running may have become 0; nil if nobody waits
}

// Workable is something that has work for a goroutine of Workers, such as a Mailbox of any type.
type Workable interface{ Work() }

// Wait returns when no goroutine is left.
func (p *Workers) Wait() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended == nil {
		p.ended = sync.NewCond(&p.mu)
	}
	for p.running > 0 {
		p.ended.Wait()
	}
}

// Add makes the pool call Work of each element once. It does not keep the slice. Work may add its
// own Workable again.
func (p *Workers) Add(work ...Workable) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range work {
		p.queue.Push(w)
	}
	if p.free == 0 && p.queue.Len() > 0 {
		p.startOne()
	}
}

func (p *Workers) startOne() {
	p.free++
	p.running++
	go p.work()
}

// end is called when a goroutine of the pool ends, also by runtime.Goexit.
func (p *Workers) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running--; p.running == 0 && p.ended != nil {
		p.ended.Broadcast()
	}
}

// work does the work of one Workable after another. If none waits, it polls and then yields once
// before it returns: goroutines that are about to fill mailboxes, such as those that read
// connections, then need not start a new one. A goroutine that has not run anything returns without
// yielding if another one is free, because its stack has not grown yet.
func (p *Workers) work() {
	defer p.end()
	p.mu.Lock()
	for yielded, isNew, n := false, true, 1; ; {
		switch w := p.next(); {
		case w != nil:
			p.free--
			if p.queue.Len() > 0 && p.free == 0 {
				p.startOne()
			}
			p.mu.Unlock()
			w.Work()
			if n%turn == 0 {
				runtime.Gosched()
			}
			n++
			p.mu.Lock()
			p.free++
			yielded, isNew = false, false
		case yielded || isNew && p.free > 1:
			p.free--
			p.mu.Unlock()
			return
		default:
			p.mu.Unlock()
			if p.Poll == nil || !p.Poll() {
				runtime.Gosched()
				yielded = true
			}
			p.mu.Lock()
		}
	}
}

// maxIdleQueue is the largest array that an empty queue keeps.
const maxIdleQueue = 1024

// next returns what has waited longest, or nil if there is nothing. The caller holds mu.
func (p *Workers) next() Workable {
	if p.queue.Len() == 0 {
		return nil
	}
	w := p.queue.Pop()
	if p.queue.Len() == 0 {
		p.queue.Clear(maxIdleQueue)
	}
	return w
}
