package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/rs/zerolog"
)

const (
	// maxTopics and maxBytes bound a batch, so that each is answered well within the timeout.
	maxTopics = 1024
	maxBytes  = 256 << 10

	// keep is how many messages' room is held on to when none wait.
	keep = 1024

	// grace is how long after its end Run goes on to send what was queued before.
	grace = time.Second

	// minDelay and maxDelay are between attempts to connect; the delay doubles.
	minDelay = 50 * time.Millisecond
	maxDelay = 2 * time.Second
)

// Run connects and delivers until ctx ends. Then it sends what still waits, within a second, and returns nil when nothing is left. It
// is called once.
func (r *Relay) Run(ctx context.Context, inbox Inbox) error {
	r.mu.Lock()
	if r.began {
		r.mu.Unlock()
		return errRunTwice
	}
	r.began, r.open, r.inbox = true, true, inbox
	r.health.Err = errors.New("not connected yet")
	r.mu.Unlock()

	sending, end := linger(ctx, grace)
	delay, loud := minDelay, true
	for {
		begun := time.Now()
		connected, err := r.session(ctx, sending)
		err = r.redact(err)
		if ctx.Err() != nil {
			break
		}
		loud = loud || connected
		r.down(err, loud)
		loud = false
		if connected && time.Since(begun) > maxDelay {
			delay = minDelay
		}
		pause(ctx, delay/2+rand.N(delay/2)) // nodes that lost the engine together do not come back together
		delay = min(2*delay, maxDelay)
	}
	end()
	r.mu.Lock()
	r.open, r.queue, r.used = false, nil, 0 // what still waits is lost
	r.mu.Unlock()
	r.state(false, ctx.Err())
	r.in.Close(false)
	r.in.Wait()
	return nil
}

// linger returns a context that ends a while after ctx, or when the function is called, which waits until nothing is left of it.
func linger(ctx context.Context, d time.Duration) (context.Context, func()) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-ctx.Done():
			pause(longer, d)
			cancel()
		case <-longer.Done():
		}
	}()
	return longer, func() { cancel(); <-done }
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// close refuses further messages.
func (r *Relay) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open = false
}

// down notes that a connection was lost, or not made.
func (r *Relay) down(why error, loud bool) {
	r.state(false, why)
	level := zerolog.DebugLevel
	if loud {
		level = zerolog.WarnLevel
	}
	r.log.WithLevel(level).Err(why).Msg("pubsub: not connected")
}

// session is the life of one connection. It reports whether the engine ever answered, and why it ended.
func (r *Relay) session(ctx, sending context.Context) (connected bool, err error) {
	conn, err := r.engine.Dial(ctx, In{Data: r.receive, Gap: r.gap, Changed: r.changed})
	if err != nil {
		return false, err
	}
	defer conn.Close()
	r.begin(conn.MaxMessage())
	defer r.end()

	b := &Batch{Subscribe: []string{r.engine.Channel(All, "all"), r.engine.Channel(Node, r.node)}, Check: true}
	for done := false; !done; b.reset() {
		done = r.take(b)
		if err := r.send(sending, conn, b); err != nil {
			return false, err
		}
	}
	before := r.Health()
	r.joinedEngine()
	defer func() { r.lost = r.leftEngine() || r.lost }()
	r.state(true, nil)
	r.log.Info().Msg("pubsub: connected")
	if r.connected {
		r.gap(fmt.Errorf("the connection was lost: %w", before.Err))
	}
	r.connected = true
	return true, r.serve(ctx, sending, conn, b)
}

// begin makes ready for a connection: all topics are to be told, and what it cannot carry is lost.
func (r *Relay) begin(longest int) {
	r.epoch++
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = maps.Clone(r.want)
	r.longest = longest
	r.sending, r.sent = r.shorten(r.sending[r.sent:]), 0
	r.queue = r.shorten(r.queue)
}

func (r *Relay) shorten(queue []Message) []Message {
	return slices.DeleteFunc(queue, func(m Message) bool {
		if r.fits(m) {
			return false
		}
		r.used -= m.size()
		r.health.Dropped++
		r.lost = true
		return true
	})
}

func (r *Relay) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = nil
}

// serve sends what there is to send, until the connection is lost, or ctx has ended and nothing waits any more.
func (r *Relay) serve(ctx, sending context.Context, conn Conn, b *Batch) error {
	tick := time.NewTimer(0)
	defer tick.Stop()
	checked := time.Now()
	for {
		ending := ctx.Err() != nil
		if ending {
			r.close()
		}
		// A probe that is due shortly before a check takes it along. The check comes before messages are taken, which would be lost.
		probe, age := r.untilProbe() <= 0, time.Since(checked)
		check := !ending && (age >= r.cfg.Ping || probe && age >= r.cfg.Ping/2)
		if check {
			if err := r.checkProbes(); err != nil {
				return err
			}
			checked = time.Now()
		}
		b.reset()
		if r.take(b) {
			r.messages(b)
		}
		if ending && b.empty() {
			r.addProbe(b, kindBye)
			return r.send(sending, conn, b)
		}
		b.Check = check
		if probe {
			r.addProbe(b, kindProbe)
		}
		if b.empty() && !b.Check {
			tick.Reset(max(0, r.settled(min(r.untilProbe(), r.cfg.Ping-time.Since(checked)))))
			select {
			case <-tick.C:
				continue
			case err := <-conn.Lost():
				return err
			case <-r.wake:
				continue
			case <-ctx.Done():
				continue
			}
		}
		if err := r.send(sending, conn, b); err != nil {
			return err
		}
		r.tellMissed()
		r.settled(0)
	}
}

// take puts changes of topics into b. It reports whether these were all, and then has taken the messages that wait: a message that was
// queued after a subscription is not sent before it.
func (r *Relay) take(b *Batch) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for topic := range r.pending {
		if len(b.Subscribe)+len(b.Unsubscribe) >= maxTopics {
			return false
		}
		delete(r.pending, topic)
		if _, ok := r.want[topic]; ok {
			b.Subscribe = append(b.Subscribe, r.engine.Channel(Topic, topic))
		} else {
			b.Unsubscribe = append(b.Unsubscribe, r.engine.Channel(Topic, topic))
		}
	}
	if r.sent == len(r.sending) {
		clear(r.sending)
		if cap(r.sending) > keep {
			r.sending = nil
		}
		r.sending, r.queue, r.sent = r.queue, r.sending[:0], 0
	}
	return true
}

// messages puts those that were taken into b, behind word of what was lost.
func (r *Relay) messages(b *Batch) {
	if r.lost {
		notice := append(newEnvelope(kindLost, r.id, len(r.node)), r.node...)
		setEpoch(notice, r.epoch)
		b.Messages, b.notice = append(b.Messages, Message{r.engine.Channel(All, "all"), notice}), true
	}
	for ; r.sent < len(r.sending); r.sent++ {
		m := r.sending[r.sent]
		size := m.size()
		if b.size > 0 && b.size+size > maxBytes {
			return
		}
		b.size += size
		setEpoch(m.Data, r.epoch)
		b.Messages = append(b.Messages, m)
	}
}

// send has a batch sent and answered. Without an answer its messages count as lost.
func (r *Relay) send(ctx context.Context, conn Conn, b *Batch) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	err := conn.Send(ctx, b)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("the engine did not answer within %v", r.cfg.Timeout)
	}
	r.sentProbe(b, err)
	r.mu.Lock()
	r.used -= b.size
	r.mu.Unlock()
	switch {
	case err != nil && b.size > 0:
		r.lost = true
	case err == nil && b.notice:
		r.lost = false
	}
	return err
}
