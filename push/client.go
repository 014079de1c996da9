package push

import (
	"context"
	"errors"
	"sync"

	"bennu.example/serializer"
)

// Statuses that no server sends: how [Push.Receive] learns of a push that got no reply.
const (
	StatusTimeout = "timeout" // Wait returns ErrTimeout; the payload is empty
	StatusFailed  = "failed"  // Wait returns any other error; the payload is {"reason": its text}
)

var (
	// ErrTimeout is wrapped by Wait's error when no reply came in time. The server may still have done what was asked.
	ErrTimeout = errors.New("no reply in time")
	// ErrLost is wrapped by Wait's error when the push was sent, and the connection or the server's channel ended before its
	// reply. The server may or may not have done what was asked; only the caller knows whether it may be asked twice. A push that
	// had not been handed to the network is never lost: it waits for the next join.
	ErrLost = errors.New("lost before the reply")
	// ErrFull is wrapped by Wait's error when too many bytes of earlier pushes wait to be sent. The push was not queued.
	ErrFull = errors.New("too much waits to be sent")
	// ErrCanceled is wrapped by Wait's error after [Push.Cancel].
	ErrCanceled = errors.New("push canceled")
)

// Push is a client's push and the one answer that it gets: a reply, or the reason why there will be none. Its methods may be called
// from any goroutine.
type Push struct {
	owner  Owner
	sticky bool

	mu        sync.Mutex
	done      chan struct{} // made when somebody asks
	isDone    bool
	isWatched bool // done was given away
	waiting   int  // in Wait
	answer    Answer
	latest    *Answer // of a sticky push that was answered again
	hooks     []hook
}

type hook struct {
	status string
	f      func(serializer.Payload)
}

// Wait waits for the answer and returns the payload of an "ok". Any other reply is an [*Error]; ErrTimeout, ErrLost, ErrFull,
// ErrCanceled and channel.ErrClosed tell why there is no reply. If ctx ends first, its error is returned and the push goes on: see
// Cancel. Waiting in a callback of the same channel is fine.
func (p *Push) Wait(ctx context.Context) (serializer.Payload, error) {
	p.mu.Lock()
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
			p.mu.Unlock()
			return serializer.Payload{}, err
		}
	}
	a := p.answer
	p.mu.Unlock()
	if a.Err != nil {
		return serializer.Payload{}, a.Err
	}
	if a.Status != StatusOK {
		return serializer.Payload{}, &Error{Status: a.Status, Payload: a.Payload}
	}
	return a.Payload, nil
}

// Receive has f called with the payload of a reply of the given status, or of [StatusTimeout] or [StatusFailed]. If that is how the push was
// answered already, f is called at once. Calls are made on the channel's callback queue, like those of all its callbacks: one at a time,
// in the order in which things came in. On the push of a Join, f is called for every later join as well. A panic in f ends the
// program.
func (p *Push) Receive(status string, f func(serializer.Payload)) *Push {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.isDone || p.sticky {
		p.hooks = append(p.hooks, hook{status, f})
	}
	if p.isDone {
		a := p.answer
		if p.latest != nil {
			a = *p.latest
		}
		p.runLocked(hook{status, f}, a)
	}
	return p
}

// Done is closed when the push was answered.
func (p *Push) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.isWatched = true
	return p.doneLocked()
}

func (p *Push) doneLocked() chan struct{} {
	if p.done == nil {
		p.done = make(chan struct{})
		if p.isDone {
			close(p.done)
		}
	}
	return p.done
}

// Cancel withdraws the push: if it still waits to be sent, it will not be; if it was sent, its reply is ignored. Unless it was answered
// before, it fails with ErrCanceled. Joins and leaves cannot be withdrawn.
func (p *Push) Cancel() {
	p.mu.Lock()
	done := p.isDone
	p.mu.Unlock()
	if !done {
		p.owner.Cancel(p)
	}
}

func (p *Push) runLocked(h hook, a Answer) {
	if h.status == a.Status {
		p.owner.Call(h.f, a.Payload)
	}
}

// Answer is what resolves a push. For package channel; not covered by the compatibility promise.
type Answer struct {
	Status  string
	Payload serializer.Payload
	Err     error // what Wait returns; nil if the server replied
}

// Failed is the answer to a push that gets no reply, because of err.
func Failed(err error) Answer {
	if errors.Is(err, ErrTimeout) {
		return Answer{Status: StatusTimeout, Err: err}
	}
	return Answer{Status: StatusFailed, Payload: serializer.Value(map[string]string{"reason": err.Error()}), Err: err}
}

// Owner carries out what a Push asks for. For package channel; not covered by the compatibility promise. Its methods must not block, nor
// call the push.
type Owner interface {
	Call(f func(serializer.Payload), p serializer.Payload) // queues a callback
	Cancel(p *Push)
}

// Resolver is the end of a Push that answers it. For package channel; not covered by the compatibility promise.
type Resolver Push

// Init makes r ready. The first answer to a push is the only one, but a sticky one's hooks are run for later ones too.
func (r *Resolver) Init(o Owner, sticky bool) { r.owner, r.sticky = o, sticky }

// Push is the handle for who waits.
func (r *Resolver) Push() *Push { return (*Push)(r) }

// IsAwaited reports whether somebody waits for the answer, or asked to be called.
func (r *Resolver) IsAwaited() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.isDone && (r.isWatched || r.waiting > 0 || len(r.hooks) > 0)
}

// Resolve answers the push and reports whether this was the first time.
func (r *Resolver) Resolve(a Answer) bool {
	p := (*Push)(r)
	p.mu.Lock()
	defer p.mu.Unlock()
	first := !p.isDone
	switch {
	case first:
		p.answer, p.isDone = a, true
		if p.done != nil {
			close(p.done)
		}
	case p.sticky:
		latest := a // so that only this case costs an allocation
		p.latest = &latest
	default:
		return false
	}
	for _, h := range p.hooks {
		p.runLocked(h, a)
	}
	if !p.sticky {
		p.hooks = nil
	}
	return first
}
