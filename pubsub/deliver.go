package pubsub

import (
	"fmt"
	"time"

	"bennu.example/internal/follow"
	"bennu.example/internal/safecall"
)

// OnPanic registers a function that is called when a Subscriber or an OnGap function panics, until
// off is called. It runs on the goroutine that panicked. A socket.Handler registers one that logs.
//
// A panic does not end the program, and the other subscribers still receive the broadcast. A
// broadcaster on this node receives it as an error. If no function is registered, nobody else is
// notified.
func (p *PubSub) OnPanic(f func(v any, stack []byte)) (off func()) {
	return p.onPanic.Add(func(e *safecall.PanicError) {
		// There is nobody to report a panic of f to.
		_ = safecall.Do(func() error { f(e.Value, e.Stack); return nil }, nil)
	})
}

// OnGap registers a function that is called when broadcasts of other nodes may have been missed,
// until off is called. Code that depends on every broadcast must then request the whole state. The
// function runs on a goroutine of the adapter and must not block it.
func (p *PubSub) OnGap(f func(reason error)) (off func()) {
	return p.onGap.Add(func(reason error) {
		if err := safecall.Do(func() error { f(reason); return nil }, nil); err != nil {
			p.report(err)
		}
	})
}

// report calls the OnPanic functions if err is a panic. The caller must hold no lock.
func (p *PubSub) report(err error) {
	if e, ok := err.(*safecall.PanicError); ok { //nolint:errorlint // as Do returned it
		p.onPanic.Notify(e)
	}
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
		var value any
		err := safecall.Do(func() (err error) { value, err = prep.by.Prepare(b); return err }, nil)
		if err == nil {
			values = append(values, prepared{prep, value})
			continue
		}
		p.report(err)
		if first == nil {
			first = fmt.Errorf("pubsub: prepare %s to %s: %w", b.Event, b.Topic, err)
		}
	}
	return values, first
}

// delivery is the state of one broadcast on its way to this node's subscribers.
type delivery struct {
	b        *Broadcast
	from     Subscriber // left out, unless it is nil
	prepared []prepared
	left     []*Subscription // those that have not received it yet
	first    error           // the first error of a preparer or a subscriber
	panics   []error         // reported when the topic is unlocked

	subscribers int           // that it is handed to
	took        time.Duration // if the broadcast has hooks
}

// deliverTo delivers to the subscriptions of t, whose read lock is held, and unlocks it.
func (d *delivery) deliverTo(t *topic) {
	defer t.mu.RUnlock() // deferred, because a subscriber may end its goroutine
	d.left, d.subscribers = t.subs, len(t.subs)
	if d.b.Context() == nil {
		d.run()
		return
	}
	begun := time.Now()
	d.run()
	d.took = time.Since(begun)
}

// run delivers to all subscriptions that are left. If a subscriber panics, it goes on with the
// next.
func (d *delivery) run() {
	for len(d.left) > 0 {
		if err := safecall.Do(d.untilPanic, nil); err != nil {
			d.panics = append(d.panics, err)
			d.fail(err)
		}
	}
}

func (d *delivery) untilPanic() error {
	for len(d.left) > 0 {
		s := d.left[0]
		d.left = d.left[1:]
		if d.from != nil && s.sub == d.from {
			d.subscribers--
			if reader, ok := s.sub.(follow.Subscriber[*Broadcast]); ok && d.b.record != nil {
				reader.Skip(d.b)
			}
			continue
		}
		if err := d.deliver(s); err != nil {
			d.fail(err)
		}
	}
	return nil
}

func (d *delivery) deliver(s *Subscription) error {
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

func (d *delivery) fail(err error) {
	if d.first == nil {
		d.first = fmt.Errorf("pubsub: broadcast %s to %s: %w", d.b.Event, d.b.Topic, err)
	}
}
