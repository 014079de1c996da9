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
)

func TestMain(m *testing.M) { leak.Main(m) }

var (
	errDown = errors.New("the bus is down")
	errCut  = errors.New("the connection was cut")
	errRole = errors.New("the server is a replica")
)

// bus is an engine that takes no time, and that can be stopped, made deaf and full of faults.
type bus struct {
	mu      sync.Mutex
	conns   []*conn
	dials   []time.Time
	down    bool
	deaf    bool // takes everything and answers nothing
	longest int
	refuse  error            // what Dial returns; nil: it connects
	place   func() int       // the server of the next connection; nil: 0
	split   bool             // servers do not forward to each other
	demoted map[int]bool     // servers that have become replicas
	faults  *rand.Rand       // if not nil, what is sent may fail in any way
	cuts    int              // so many batches with messages cut their connection before they arrive
	stuck   []broker.Message // of connections that were cut
}

func (b *bus) Channel(kind broker.Kind, name string) string { return string(kind) + name }

func (b *bus) Dial(_ context.Context, in broker.In) (broker.Conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dials = append(b.dials, time.Now())
	if b.down || b.chance(4) {
		return nil, errDown
	}
	if b.refuse != nil {
		return nil, b.refuse
	}
	c := &conn{bus: b, in: in, subs: make(map[string]bool), lost: make(chan error, 1)}
	if b.place != nil {
		c.server = b.place()
	}
	b.conns = append(b.conns, c)
	return c, nil
}

// chance is one in n, if there are faults.
func (b *bus) chance(n int) bool { return b.faults != nil && b.faults.IntN(n) == 0 }

// stop cuts all connections and refuses new ones until start.
func (b *bus) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = true
	for _, c := range b.conns {
		c.cut()
	}
}

func (b *bus) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

// publish brings a message of any server to who subscribed.
func (b *bus) publish(m broker.Message) { b.publishFrom(nil, m) }

func (b *bus) publishFrom(from *conn, m broker.Message) {
	for _, c := range b.conns {
		if c.subs[m.Channel] && (from == nil || !b.split || from.server == c.server) {
			c.in.Data(m.Data)
		}
	}
}

// conn is a connection to the bus. All of it is under the bus's mutex.
type conn struct {
	bus     *bus
	server  int
	in      broker.In
	subs    map[string]bool
	lost    chan error
	dead    bool
	batches []broker.Batch
	hold    chan struct{} // if not nil, Send waits for it
}

func (c *conn) Send(ctx context.Context, batch *broker.Batch) error {
	if !c.take(batch) {
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

// take does what a batch says, and reports whether to answer.
func (c *conn) take(batch *broker.Batch) bool {
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
		Subscribe: slices.Clone(batch.Subscribe), Unsubscribe: slices.Clone(batch.Unsubscribe), Messages: slices.Clone(batch.Messages),
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
			b.stuck = append(b.stuck, m)
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
	return !b.deaf && !b.chance(100)
}

// cut ends the connection as its node sees it.
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

// node is a relay that runs, and all that it brought.
type node struct {
	*broker.Relay
	stop func() error

	mu   sync.Mutex
	got  []event
	gate chan struct{} // if not nil, Deliver waits for it
}

// event is something that came: a body, or "gap: " and the reason.
type event struct {
	what string
	when int64
}

func start(t *testing.T, b *bus, cfg broker.Config) *node {
	t.Helper()
	n := &node{Relay: broker.New(b, cfg)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- n.Run(ctx, broker.Inbox{
			Deliver: func(data []byte) error {
				n.mu.Lock()
				gate := n.gate
				n.mu.Unlock()
				if gate != nil {
					<-gate
				}
				if string(data) == "garbage" {
					return errors.New("garbage")
				}
				n.note(string(data))
				return nil
			},
			Gap: func(reason error) { n.note("gap: " + reason.Error()) },
		})
	}()
	n.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { n.stop() })
	synctest.Wait()
	return n
}

// block has Deliver wait until the function is called, and all that can happen before has happened.
func (n *node) block() (unblock func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	gate := make(chan struct{})
	n.gate = gate
	return func() { synctest.Wait(); close(gate) }
}

func (n *node) note(what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.got = append(n.got, event{what, clock.Add(1)})
}

// take returns what came since it was called last.
func (n *node) take() []event {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	got := n.got
	n.got = nil
	return got
}

// pass lets time pass.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// body is what a test publishes.
type body string

func (b body) AppendBinary(dst []byte) ([]byte, error) { return append(dst, b...), nil }

func (n *node) say(topic string, bodies ...string) error {
	var err error
	for _, b := range bodies {
		err = errors.Join(err, n.Publish("", topic, body(b), len(b)))
	}
	return err
}

// heard is take without the times.
func (n *node) heard() (got []string) {
	for _, e := range n.take() {
		got = append(got, e.what)
	}
	return got
}

func (n *node) wants(t *testing.T, want ...string) {
	t.Helper()
	if got := n.heard(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func mustSay(t *testing.T, n *node, topic string, bodies ...string) {
	t.Helper()
	if err := n.say(topic, bodies...); err != nil {
		t.Errorf("publish: %v", err)
	}
}
