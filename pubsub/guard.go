package pubsub

import (
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
)

// hooks are functions that are called when something happens. The zero hooks are empty.
type hooks[F any] struct {
	mu  sync.Mutex
	all map[*int]F
}

// add adds f until off is called.
func (h *hooks[F]) add(f F) (off func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all == nil {
		h.all = make(map[*int]F)
	}
	key := new(int)
	h.all[key] = f
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.all, key)
	}
}

func (h *hooks[F]) list() []F {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Values(h.all))
}

// panicked is a panic of a subscriber, a preparer or an OnGap function. It is an error of the broadcast.
type panicked struct {
	what  string
	value any
	stack []byte
}

func (e *panicked) Error() string { return fmt.Sprintf("%s panicked: %v", e.what, e.value) }

// recovered is deferred around code of others.
func recovered(what string, e **panicked) {
	if v := recover(); v != nil {
		*e = &panicked{what, v, debug.Stack()}
	}
}

// report calls the OnPanic functions. It must be called under no lock.
func (p *PubSub) report(e *panicked) {
	for _, f := range p.onPanic.list() {
		func() {
			defer func() { _ = recover() }() // there is nobody left to tell
			f(e.value, e.stack)
		}()
	}
}

// OnPanic adds a function that is called when a Subscriber, a Preparer or an OnGap function panics, until off is
// called. Without any, only the broadcaster learns of it, by an error, if it is on this node. Others are delivered to
// all the same. The function is called on the goroutine that panicked. A socket.Handler adds one, which logs.
func (p *PubSub) OnPanic(f func(v any, stack []byte)) (off func()) { return p.onPanic.add(f) }

// OnGap adds a function that is called whenever broadcasts of other nodes may have been missed, until off is called.
// Code that must not miss any then requests the whole state. The function is called on a goroutine of the adapter,
// which it must not block.
func (p *PubSub) OnGap(f func(reason error)) (off func()) { return p.onGap.add(f) }

func (p *PubSub) gap(reason error) {
	for _, f := range p.onGap.list() {
		if e := callGap(f, reason); e != nil {
			p.report(e)
		}
	}
}

func callGap(f func(error), reason error) (e *panicked) {
	defer recovered("OnGap function", &e)
	f(reason)
	return nil
}

// prepared is a value that a preparer computed from a broadcast.
type prepared struct {
	by    *preparation
	value any
}

// prepare calls the preparers of a topic. The caller must hold no lock.
func (p *PubSub) prepare(preps []*preparation, b *Broadcast) (values []prepared, first error) {
	values = make([]prepared, 0, len(preps))
	for _, prep := range preps {
		value, e, err := callPrepare(prep.by, b)
		if e != nil {
			p.report(e)
			err = e
		}
		if err == nil {
			values = append(values, prepared{prep, value})
		} else if first == nil {
			first = fmt.Errorf("pubsub: prepare %s to %s: %w", b.Event, b.Topic, err)
		}
	}
	return values, first
}

func callPrepare(by preparer, b *Broadcast) (value any, e *panicked, err error) {
	defer recovered("preparer", &e)
	value, err = by.Prepare(b)
	return value, nil, err
}

// deliveries are the subscribers of one broadcast that are still to get it.
type deliveries struct {
	b        *Broadcast
	from     Subscriber
	prepared []prepared
	left     []*Subscription
	first    error       // of all
	panics   []*panicked // to be reported when the topic is unlocked
}

// run delivers to all that are left. A subscriber that panics costs the others nothing.
func (d *deliveries) run() {
	for len(d.left) > 0 {
		if e := d.untilPanic(); e != nil {
			d.panics = append(d.panics, e)
			d.fail(e)
		}
	}
}

func (d *deliveries) untilPanic() (e *panicked) {
	defer recovered("subscriber", &e)
	for len(d.left) > 0 {
		s := d.left[0]
		d.left = d.left[1:]
		if d.from != nil && s.sub == d.from {
			continue
		}
		if err := d.deliver(s); err != nil {
			d.fail(err)
		}
	}
	return nil
}

func (d *deliveries) deliver(s *Subscription) error {
	if s.prep == nil {
		return s.sub.Deliver(d.b)
	}
	var value any
	for _, v := range d.prepared {
		if v.by == s.prep {
			value = v.value
		}
	}
	return s.sub.(preparedSubscriber).DeliverPrepared(d.b, value)
}

func (d *deliveries) fail(err error) {
	if d.first == nil {
		d.first = fmt.Errorf("pubsub: broadcast %s to %s: %w", d.b.Event, d.b.Topic, err)
	}
}
