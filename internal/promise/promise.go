// Package promise implements push.Push. It keeps the functions by which package channel answers a
// push out of what users see of package push. Reason is the payload of the error replies of channel
// and socket.
package promise

import (
	"context"
	"sync"

	"bennu.example/serializer"
)

// Result resolves a Promise.
type Result struct {
	Status  string
	Payload serializer.Payload
	Err     error // why there is no reply; nil if the server replied
}

// Owner carries out what the holder of a Promise requests. Its methods must not block, and must not
// call the Promise.
type Owner interface {
	Call(f func(serializer.Payload), p serializer.Payload) // enqueues a callback
	Cancel()
}

// Promise is a result that may not be known yet. Its methods may be called from any goroutine.
type Promise struct {
	owner  Owner
	sticky bool

	mu        sync.Mutex
	done      chan struct{} // created on demand
	isDone    bool
	isWatched bool // Done was called
	waiting   int  // calls of Wait that have not returned
	result    Result
	latest    *Result // of a sticky promise that was resolved again
	hooks     []hook
}

type hook struct {
	status string
	f      func(serializer.Payload)
}

// Init must be called before all other methods. If sticky is true, the functions given to Receive
// run for every result. Otherwise they run for the first result only, and later results are
// ignored. Wait returns the first result in both cases.
func (p *Promise) Init(o Owner, sticky bool) { p.owner, p.sticky = o, sticky }

// Wait waits for the result, or returns ctx's error if ctx ends first.
func (p *Promise) Wait(ctx context.Context) (Result, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.isDone {
		done := p.doneLocked()
		p.waiting++
		p.mu.Unlock()
		var err error
		select {
		case <-done:
		case <-ctx.Done():
			err = ctx.Err()
		}
		p.mu.Lock()
		p.waiting--
		if err != nil {
			return Result{}, err
		}
	}
	return p.result, nil
}

// Receive registers f for results of a status. If the latest result has that status, f is called
// for it.
func (p *Promise) Receive(status string, f func(serializer.Payload)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.isDone || p.sticky {
		p.hooks = append(p.hooks, hook{status, f})
	}
	if p.isDone {
		r := p.result
		if p.latest != nil {
			r = *p.latest
		}
		p.callLocked(hook{status, f}, r)
	}
}

// Done returns a channel that is closed when there is a result.
func (p *Promise) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.isWatched = true
	return p.doneLocked()
}

func (p *Promise) doneLocked() chan struct{} {
	if p.done == nil {
		p.done = make(chan struct{})
		if p.isDone {
			close(p.done)
		}
	}
	return p.done
}

// Cancel calls the owner's Cancel, unless there is a result already.
func (p *Promise) Cancel() {
	p.mu.Lock()
	done := p.isDone
	p.mu.Unlock()
	if !done {
		p.owner.Cancel()
	}
}

func (p *Promise) callLocked(h hook, r Result) {
	if h.status == r.Status {
		p.owner.Call(h.f, r.Payload)
	}
}

// IsAwaited reports whether there is no result yet and a Wait, a Done or a Receive was made for it.
func (p *Promise) IsAwaited() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.isDone && (p.isWatched || p.waiting > 0 || len(p.hooks) > 0)
}

// Resolve sets the result. It reports whether this is the first one.
func (p *Promise) Resolve(r Result) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	first := !p.isDone
	switch {
	case first:
		p.result, p.isDone = r, true
		if p.done != nil {
			close(p.done)
		}
	case p.sticky:
		latest := r // a copy, so that only this case allocates
		p.latest = &latest
	default:
		return false
	}
	for _, h := range p.hooks {
		p.callLocked(h, r)
	}
	if !p.sticky {
		p.hooks = nil
	}
	return first
}
