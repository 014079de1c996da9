package state_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/mailbox"
	"bennu.example/pubsub"
	"bennu.example/serializer"
	"bennu.example/state"
	"bennu.example/transport"
)

// The simulation: clients write one object at random, lose their connections, are slow, and come
// back at their positions. A checker compares what they hold with the object's states.

// simTopic is the topic of the object, also of a list and of a tree.
const simTopic = "map:1"

// simKeep is Limits.Changes.
const simKeep = 40

// simClient is a client with its connection.
type simClient struct {
	t    *testing.T
	s    *sim
	name string
	rng  *rand.Rand

	mu     sync.Mutex
	luck   *rand.Rand // of the connection
	inbox  [][]byte
	closed bool
	waits  map[channelhost.Channel]bool // until the connection has drained

	c      channelhost.Channel
	ref    int
	joined bool // the reply has come
	synced bool
	at     string
	rows   map[string]simItem
	seen   map[string]uint64 // the highest revision of each key since the copy was cleared
	acks   map[string]string // the $id of each push without a reply, by ref
	done   map[string]bool   // those with an ok reply
	part   simPart
}

var _ channelhost.Carrier = (*simClient)(nil)

func (c *simClient) Serializer() serializer.Serializer     { return serializer.V2() }
func (c *simClient) PubSub() *pubsub.PubSub                { return c.s.ps }
func (c *simClient) Congested(channelhost.Channel) bool    { return false }
func (c *simClient) Batch(f func())                        { f() }
func (c *simClient) Context() context.Context              { return context.Background() }
func (c *simClient) ClientID() string                      { return c.name }
func (c *simClient) Identity() (_, client, _ string)       { return "", c.name, "" }
func (c *simClient) Outgoing() (_, _ int, _ time.Duration) { return 0, 0, 0 }
func (c *simClient) Answered()                             {}
func (c *simClient) Arrive(context.Context, string) error  { return nil }
func (c *simClient) Ended()                                {}

func (c *simClient) Send(f *serializer.Frame, how transport.Delivery) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return transport.ErrClosed
	}
	if how.IfRoom && c.luck.IntN(3) == 0 {
		return transport.ErrNoRoom
	}
	c.inbox = append(c.inbox, f.Data)
	return nil
}

func (c *simClient) Drained(ch channelhost.Channel) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.luck.IntN(2) == 0 {
		return true
	}
	c.waits[ch] = true
	return false
}

func (c *simClient) End(_ channelhost.Channel, frames ...*serializer.Frame) {
	for _, f := range frames {
		if f != nil {
			_ = c.Send(f, transport.Delivery{Answer: true}) // it has closed
		}
	}
}

func (c *simClient) Crashed(_ channelhost.Channel, what string, err error) {
	c.t.Errorf("%s: %s: %v", c.name, what, err)
}

func (c *simClient) Log(_ channelhost.Channel, message string, err error) {
	if !errors.Is(err, history.ErrUnavailable) {
		c.t.Errorf("%s: %s: %v", c.name, message, err)
	}
}

// sim is one simulation.
type sim struct {
	t       *testing.T
	rng     *rand.Rand
	ps      *pubsub.PubSub
	workers mailbox.Workers
	nodes   []*channel.Handler
	views   []*channel.Handler // those with Config.Visible
	objects []*state.Objects
	clients []*simClient
	rec     *recorder
	store   *state.Memory
	stores  []*lossy
	exact   bool // the feed is perfect
	kind    simKind
	ids     int
	sent    map[string]bool // $ids of increments
	reset   int             // removals of the object
}

// TestSimulation runs with two nodes, whose feeds are perfect or bad.
func TestSimulation(t *testing.T) {
	t.Parallel()
	for _, kind := range simKinds {
		for seed := range kind.seeds {
			for _, exact := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, seed %d, exact %v", kind.name, seed, exact), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) { simulate(t, kind, seed, exact) })
				})
			}
		}
	}
}

func simulate(t *testing.T, kind simKind, seed uint64, exact bool) {
	s := &sim{
		t: t, rng: rand.New(rand.NewPCG(seed, 7)), ps: pubsub.New(nil), exact: exact, kind: kind,
		store: state.NewMemory(state.MemoryConfig{}), sent: make(map[string]bool),
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	base, err := s.store.Tops(ctx, []string{simTopic})
	if err != nil {
		t.Fatal(err)
	}
	s.rec = &recorder{states: map[string]simState{base[0].String(): {}}}
	running.Go(func() { _ = s.store.Run(ctx, state.Inbox{Change: s.rec.change}) }) // nil
	synctest.Wait()
	cfg := state.Config{Allow: allowAll, Limits: state.Limits{Changes: simKeep}, Queries: []state.QueryDef{simQuery}}
	view := cfg
	view.Visible = func(_ context.Context, _ *channel.Channel, it state.Item) bool { return simVisible(it.Rev) }
	for i := range uint64(2) {
		store := &lossy{Store: s.store, exact: exact, rng: rand.New(rand.NewPCG(seed, i)), between: kind.between}
		s.stores = append(s.stores, store)
		o := state.New(store)
		running.Go(func() { _ = o.Run(ctx) }) // nil
		s.objects = append(s.objects, o)
		s.nodes = append(s.nodes, kind.handler(o, cfg))
		s.views = append(s.views, kind.handler(o, view))
	}
	synctest.Wait()
	parts := simParts(kind.from, kind.to)
	for i := range 5 + len(parts) {
		c := &simClient{
			t: t, s: s, name: fmt.Sprint("client ", i), rng: rand.New(rand.NewPCG(seed, uint64(i)+100)),
			luck:  rand.New(rand.NewPCG(seed, uint64(i)+200)),
			waits: make(map[channelhost.Channel]bool), done: make(map[string]bool),
		}
		if i >= 5 {
			c.part = parts[i-5]
		}
		s.clients = append(s.clients, c)
		c.connect()
	}
	for range 700 {
		s.step()
	}
	s.settle()
	for _, c := range s.clients {
		c.cut()
	}
	s.workers.Wait()
	cancel()
	running.Wait()
	s.check()
}

// step lets one thing happen.
func (s *sim) step() {
	c := s.clients[s.rng.IntN(len(s.clients))]
	switch n := s.rng.IntN(100); {
	case n < 55:
		c.write()
	case n < 80:
		c.read()
	case n < 88:
		c.drain()
	case n < 93:
		c.cut()
		c.connect()
	case n < 94 && s.reset < 2:
		if err := s.store.Remove(context.Background(), simTopic, ""); err == nil {
			s.reset++
		} else if !errors.Is(err, state.ErrNotFound) {
			s.t.Error(err)
		}
	default:
		time.Sleep(time.Duration(s.rng.IntN(400)) * time.Millisecond) // in virtual time
	}
	if s.rng.IntN(3) == 0 {
		synctest.Wait()
	}
}

// settle waits until every client has everything, and compares.
func (s *sim) settle() {
	for _, l := range s.stores {
		l.quiet.Store(true)
	}
	for range 60 {
		time.Sleep(30 * time.Second) // in virtual time; surveys find what was lost
		for _, c := range s.clients {
			c.drain()
			synctest.Wait()
			c.read()
			if c.c == nil {
				c.connect()
			}
		}
	}
	synctest.Wait()
	for _, c := range s.clients {
		c.read()
		if !c.synced {
			s.t.Errorf("%s is not synchronized", c.name)
		}
		s.equal(c, c.part.state(s.rec.now), "at the end")
	}
}

// equal compares what a client holds with a state. An item whose time has come may be missing.
func (s *sim) equal(c *simClient, want simState, when string) {
	s.t.Helper()
	for k, got := range c.rows {
		if want[k].simItem != got {
			s.t.Errorf("%s, %s: %s is %v, want %v", c.name, when, k, got, want[k].simItem)
		}
	}
	for k, w := range want {
		if _, ok := c.rows[k]; !ok && (w.expires.IsZero() || w.expires.After(time.Now())) {
			s.t.Errorf("%s, %s: %s is missing, want %v", c.name, when, k, w.simItem)
		}
	}
}

// check compares the counter with what was acknowledged.
func (s *sim) check() {
	for _, e := range s.rec.errs {
		s.t.Error(e)
	}
	acknowledged := 0
	for _, c := range s.clients {
		acknowledged += len(c.done)
	}
	if s.reset > 0 {
		return // increments were removed
	}
	n := s.kind.count(s.t, s.rec.now)
	if n < acknowledged || n > len(s.sent) {
		s.t.Errorf("the counter is %d, but %d of %d increments were acknowledged", n, acknowledged, len(s.sent))
	}
}

// connect joins.
func (c *simClient) connect() {
	c.ref++
	ref := serializer.StringRef(fmt.Sprint(c.ref))
	since := ""
	if c.at != "" {
		since = fmt.Sprintf(`"since":%q`, c.at)
	}
	nodes := c.s.nodes
	if c.part.visible {
		nodes = c.s.views
	}
	if c.part.params != "" {
		since = c.part.params
	}
	var p serializer.Payload
	_ = p.UnmarshalJSON([]byte(`{"$state":{` + since + `}}`)) // it never fails
	c.mu.Lock()
	c.closed, c.inbox = false, nil
	c.mu.Unlock()
	c.joined, c.synced, c.acks = false, false, make(map[string]string)
	c.c = channelhost.Start(c, channelhost.Join{
		Handler: nodes[c.rng.IntN(len(nodes))], MaxMailbox: 1 << 20, Workers: &c.s.workers,
		Message: serializer.Message{JoinRef: ref, Ref: ref, Topic: simTopic, Event: serializer.EventJoin, Payload: p},
	})
}

// cut ends the connection. Frames that were sent and not read are lost.
func (c *simClient) cut() {
	if c.c == nil {
		return
	}
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.c.Close(errors.New("cut"))
	c.c.Wait()
	c.c = nil
}

// drain lets the connection drain.
func (c *simClient) drain() {
	c.mu.Lock()
	waits := c.waits
	c.waits = make(map[channelhost.Channel]bool)
	c.mu.Unlock()
	for ch := range waits {
		ch.ReadOn()
	}
}

// write pushes a write, which may be one that was pushed before and not answered.
func (c *simClient) write() {
	if c.c == nil {
		return
	}
	s := c.s
	c.ref++
	ref := fmt.Sprint(c.ref)
	event, payload := s.kind.write(c)
	if payload == "" { // one that counts
		s.ids++
		id := fmt.Sprint("id", s.ids)
		s.sent[id] = true
		c.acks[ref] = id
		event, payload, _ = strings.Cut(fmt.Sprintf(s.kind.counts, id), " ")
		if c.rng.IntN(2) == 0 {
			c.push(ref+"0", event, payload) // it counts once
		}
	}
	c.push(ref, event, payload)
}

func (c *simClient) push(ref, event, payload string) {
	var p serializer.Payload
	_ = p.UnmarshalJSON([]byte(payload)) // it never fails
	m := serializer.Message{Ref: serializer.StringRef(ref), Topic: simTopic, Event: event, Payload: p}
	mailbox.Started(c.c.Receive(m, time.Second))
}

// read handles what was received.
func (c *simClient) read() {
	c.mu.Lock()
	inbox := c.inbox
	c.inbox = nil
	c.mu.Unlock()
	for _, text := range inbox {
		c.handle(parse(c.t, text))
		if c.c == nil {
			return // what follows belongs to the channel that has ended
		}
	}
}

func (c *simClient) handle(m message) {
	switch m.Event {
	case "phx_reply":
		response, _ := m.Payload["response"].(map[string]any)
		ref := m.Ref.(string)
		st, isJoin := response["$state"].(map[string]any)
		switch {
		case isJoin:
			c.joinReply(st)
		case m.Payload["status"] == "ok":
			if id := c.acks[ref]; id != "" {
				c.done[id] = true
			}
		case response["reason"] == "not found" && c.s.kind.mayMiss:
		case response["reason"] != "conflict" && response["reason"] != "unmatched topic":
			c.t.Errorf("%s: %v", c.name, m)
		}
	case "phx_error", "phx_close":
		c.cut()
		c.connect()
	case "put", "del", "batch", "items", "synced":
		c.event(m)
	default:
		c.t.Errorf("%s: %v", c.name, m)
	}
}

func (c *simClient) joinReply(st map[string]any) {
	if c.joined = true; st["recovered"] != true {
		c.rows, c.seen = make(map[string]simItem), make(map[string]uint64)
		for _, it := range st["items"].([]any) {
			c.take(it.(map[string]any))
		}
	}
	c.at, _ = st["pos"].(string)
}

// event handles a change as the specification says.
func (c *simClient) event(m message) {
	if !c.joined {
		c.t.Errorf("%s: %v before the reply", c.name, m)
	}
	if items, ok := m.Payload["items"].([]any); ok {
		for _, it := range items {
			c.take(it.(map[string]any))
		}
	} else if m.Event != "synced" {
		c.take(m.Payload)
	}
	if at, ok := m.Payload["$pos"].(string); ok {
		c.at = at
	}
	if m.Event == "synced" {
		c.synced = true
	}
	if c.part.keep != nil {
		if c.at != "" {
			c.t.Errorf("%s has the position %s", c.name, c.at)
		}
		return
	}
	if !c.synced || !c.s.exact && m.Event != "synced" {
		return
	}
	want, ok := c.s.rec.at(c.at)
	if !ok {
		c.t.Errorf("%s: %v: the object was never there", c.name, m)
		return
	}
	if c.s.exact {
		c.s.equal(c, want, m.String())
	} else {
		c.older(want, m.String())
	}
	if c.rows["x"].value != c.rows["y"].value || c.rows["y"].value != c.rows["z"].value {
		c.t.Errorf("%s: a batch was divided: %v", c.name, c.rows)
	}
}

// older compares what the client holds with a state. Keys that have changed since may have any
// value that they had before.
func (c *simClient) older(want simState, when string) {
	c.s.rec.mu.Lock()
	defer c.s.rec.mu.Unlock()
	for k, w := range want {
		if got := c.rows[k]; got != w.simItem && c.s.rec.now[k] == w && w.expires.IsZero() {
			c.t.Errorf("%s, %s: %s is %v, want %v", c.name, when, k, got, w.simItem)
		}
	}
}

// take applies a change of one item.
func (c *simClient) take(it map[string]any) {
	key, rev := it["key"].(string), uint64(it["rev"].(float64))
	// Before synced, a page may have had what was put after the deletion of a subtree. It comes again.
	isLate := rev < c.seen[key] && (c.synced || it["under"] != true)
	if isLate && c.part.keep == nil {
		c.t.Errorf("%s: %v after revision %d", c.name, it, c.seen[key])
	}
	c.seen[key] = max(rev, c.seen[key])
	if it["under"] == true {
		for k := range c.rows {
			if key == "" || strings.HasPrefix(k, key+"/") {
				delete(c.rows, k)
			}
		}
	}
	if v, ok := it["value"]; ok {
		c.rows[key] = simItem{text(v), rev}
	} else {
		delete(c.rows, key)
	}
}
