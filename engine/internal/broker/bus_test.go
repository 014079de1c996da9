package broker_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/engine/internal/broker"
	"bennu.example/internal/testenv/leak"
	"bennu.example/pubsub"
)

func TestMain(m *testing.M) { leak.Main(m) }

var (
	errDown = errors.New("the bus is down")
	errCut  = errors.New("the connection was cut")
	errRole = errors.New("the server is a replica")
)

// bus is a backend in memory. It needs no time, and a test can stop it, keep it from answering, and
// inject faults.
type bus struct {
	mu           sync.Mutex
	conns        []*conn
	dials        []time.Time
	down         bool
	unresponsive bool // it executes everything, but answers nothing
	longest      int
	refuse       error            // returned by Dial unless nil
	place        func() int       // returns the server of the next connection; nil means server 0
	split        bool             // the servers do not forward to each other
	demoted      map[int]bool     // servers that have become replicas
	faults       *rand.Rand       // unless nil, any message may fail in any way
	cuts         int              // the number of batches with messages that cut their connection before they arrive
	delayed      []broker.Message // messages of connections that were cut
}

func (b *bus) Channel(kind broker.Kind, name string) string { return string(kind) + name }

func (b *bus) Dial(_ context.Context, r broker.Receiver) (broker.Conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dials = append(b.dials, time.Now())
	if b.down || b.chance(4) {
		return nil, errDown
	}
	if b.refuse != nil {
		return nil, b.refuse
	}
	c := &conn{bus: b, receiver: r, subs: make(map[string]bool), lost: make(chan error, 1)}
	if b.place != nil {
		c.server = b.place()
	}
	b.conns = append(b.conns, c)
	return c, nil
}

// chance returns true once in n calls on average if faults are enabled.
func (b *bus) chance(n int) bool { return b.faults != nil && b.faults.IntN(n) == 0 }

// stop cuts all connections and refuses new ones until down is reset.
func (b *bus) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = true
	for _, c := range b.conns {
		c.cut()
	}
}

// set calls f with the bus locked.
func (b *bus) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

// publish delivers a message to the subscribers at all servers.
func (b *bus) publish(m broker.Message) { b.publishFrom(nil, m) }

func (b *bus) publishFrom(from *conn, m broker.Message) {
	for _, c := range b.conns {
		if c.subs[m.Channel] && (from == nil || !b.split || from.server == c.server) {
			c.receiver.Message(m.Data)
		}
	}
}

// conn is a connection to the bus. It is guarded by the mutex of the bus.
type conn struct {
	bus      *bus
	server   int
	receiver broker.Receiver
	subs     map[string]bool
	lost     chan error
	dead     bool
	batches  []broker.Batch
	hold     chan struct{} // unless nil, Send waits for it
}

func (c *conn) Send(ctx context.Context, batch *broker.Batch) error {
	if !c.execute(batch) {
		<-ctx.Done() // no answer
		return ctx.Err()
	}
	c.bus.mu.Lock()
	hold, dead, role := c.hold, c.dead, batch.Check && c.bus.demoted[c.server]
	c.bus.mu.Unlock()
	if dead {
		return errCut
	}
	if role {
		return errRole
	}
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// execute executes a batch and reports whether to answer.
func (c *conn) execute(batch *broker.Batch) (answer bool) {
	b := c.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cuts > 0 && len(batch.Messages) > 0 {
		b.cuts--
		c.cut()
	}
	if c.dead {
		return true
	}
	c.batches = append(c.batches, broker.Batch{
		Subscribe:   slices.Clone(batch.Subscribe),
		Unsubscribe: slices.Clone(batch.Unsubscribe),
		Messages:    slices.Clone(batch.Messages),
	})
	for _, s := range batch.Subscribe {
		c.subs[s] = true
	}
	for _, s := range batch.Unsubscribe {
		delete(c.subs, s)
	}
	for _, m := range batch.Messages {
		switch {
		case c.dead && b.chance(2):
			b.delayed = append(b.delayed, m)
		case c.dead:
		case b.chance(50):
			c.cut()
		default:
			b.publishFrom(c, m)
		}
	}
	if b.chance(50) {
		c.cut()
	}
	return !b.unresponsive && !b.chance(100)
}

// cut ends the connection.
func (c *conn) cut() {
	if !c.dead {
		c.dead = true
		clear(c.subs)
		c.lost <- errCut
	}
}

func (c *conn) MaxMessage() int    { return c.bus.longest }
func (c *conn) Lost() <-chan error { return c.lost }

func (c *conn) Close() {
	c.bus.mu.Lock()
	defer c.bus.mu.Unlock()
	c.cut()
	c.bus.conns = slices.DeleteFunc(c.bus.conns, func(o *conn) bool { return o == c })
}

// node is a running broker. It records what the broker delivers.
type node struct {
	*broker.Broker
	stop func() error

	mu       sync.Mutex
	received []record
	gate     chan struct{} // unless nil, Deliver waits for it
	changes  []bool        // Health.Connected when Inbox.Changed was called
}

// record is the event of a delivered broadcast, or "gap: " and the reason of a gap.
type record struct {
	text string
	when int64
}

func start(t *testing.T, b *bus, cfg broker.Config) *node {
	t.Helper()
	n := &node{Broker: broker.New(b, cfg)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- n.Run(ctx, pubsub.Inbox{
			Deliver: func(b *pubsub.Broadcast) {
				n.mu.Lock()
				gate := n.gate
				n.mu.Unlock()
				if gate != nil {
					<-gate
				}
				n.record(b.Event)
			},
			Gap: func(reason error) { n.record("gap: " + reason.Error()) },
			Changed: func() {
				connected := n.Health().Connected
				n.mu.Lock()
				defer n.mu.Unlock()
				n.changes = append(n.changes, connected)
			},
		})
	}()
	n.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = n.stop() })
	synctest.Wait()
	return n
}

// block blocks Deliver until unblock is called. unblock first waits until everything else is idle.
func (n *node) block() (unblock func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	gate := make(chan struct{})
	n.gate = gate
	return func() { synctest.Wait(); close(gate) }
}

func (n *node) record(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.received = append(n.received, record{text, clock.Add(1)})
}

// take returns the records since the last call.
func (n *node) take() []record {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	received := n.received
	n.received = nil
	return received
}

// takeTexts is take without the times.
func (n *node) takeTexts() (texts []string) {
	for _, r := range n.take() {
		texts = append(texts, r.text)
	}
	return texts
}

// advance lets time pass.
func advance(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// publish publishes broadcasts with these events.
func (n *node) publish(topic string, events ...string) error {
	var err error
	for _, e := range events {
		err = errors.Join(err, n.Publish(context.Background(), "", &pubsub.Broadcast{Topic: topic, Event: e}))
	}
	return err
}

func (n *node) mustPublish(t *testing.T, topic string, events ...string) {
	t.Helper()
	if err := n.publish(topic, events...); err != nil {
		t.Errorf("publish: %v", err)
	}
}

// wantReceived checks the texts that were received since the last call.
func (n *node) wantReceived(t *testing.T, want ...string) {
	t.Helper()
	if got := n.takeTexts(); !slices.Equal(got, want) {
		t.Errorf("received %q, want %q", got, want)
	}
}
