package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/fakelog"
	"bennu.example/internal/histcheck"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

const topic = "room:1"

// plan is what a seed decides beforehand.
type plan struct {
	keep       history.Keep
	restarts   bool // the server restarts without its log; of several nodes, one restarts
	forgets    bool // the topic's history is forgotten
	intercepts bool // the handler intercepts some records
	maxQueue   int
	pad        int // bytes in a record, so that a slow client is parked soon

	clocks
	cluster // of several nodes
}

// promisesAll reports whether a client that did not ask receives every record in order. Records
// that are intercepted may be overtaken, and a client that reads slowly while it catches up loses
// those that the log removes, forgets or loses meanwhile, or cannot be read.
func (p plan) promisesAll() bool {
	return !p.intercepts && p.keep.Count > 1000 && !p.outages && !p.removes()
}

// removes reports whether the log removes records other than those beyond Keep.Count.
func (p plan) removes() bool { return p.forgets || p.losses || p.trims || p.expires() }

func newPlan(rnd *rand.Rand) plan {
	p := plan{keep: history.Keep{Count: 10_000, Bytes: 10 << 20, MaxReplay: 10_000}, maxQueue: 4 << 10}
	p.intercepts = rnd.IntN(2) == 0
	p.pad = []int{0, 200, 1500}[rnd.IntN(3)]
	switch rnd.IntN(4) {
	case 0:
		p.keep.Count, p.keep.MaxReplay = 20, 10
	case 1:
		p.restarts = true
	case 2:
		p.forgets = true
	}
	return p
}

// world is one run: a server, its clients, and the recording of what they did and saw.
type world struct {
	t    *testing.T
	seed uint64
	plan plan
	*histcheck.Recorder

	// life is held while a record is appended to the log of one node, and locked while the server is
	// replaced: a record that is appended to a log that nobody reads any more would seem lost.
	life  sync.RWMutex
	nodes []*node

	clocks []clock // of the nodes

	// Of several nodes; nil otherwise.
	log      *fakelog.Store
	adapters *pubsubtest.Cluster

	mu     sync.Mutex
	ids    int
	stored []string // the application's database: the ids of records, each before its append
	begun  []string // the faults that have begun and not ended: they may affect records that begin now
	skewed bool     // the clocks differ by so much that records may expire

	channels atomic.Int64 // that were joined
}

// node is one life of a server.
type node struct {
	world  *world
	ps     *pubsub.PubSub
	ran    chan error // the result of ps.Run
	cancel func()     // ends it

	observed *pubsub.Subscription // may be nil

	handler *socket.Handler
	server  *http.Server
	conns   chan net.Conn
	closed  chan struct{}
	served  chan struct{}
}

// Accept, Close and Addr make the node a net.Listener whose connections are pipes.
func (n *node) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

func (n *node) Close() error {
	close(n.closed)
	return nil
}

func (n *node) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "127.0.0.1:1" }

// room is the state of a channel.
type room struct {
	client string
	name   string // unique: the channel of another connection may still wait for the log
	node   *node
	reach  time.Time // of the join; zero: no bound
	began  int       // events that were recorded before it
}

// start starts the server number i.
func (w *world) start(i int) *node {
	n := &node{
		world: w, conns: make(chan net.Conn), closed: make(chan struct{}), served: make(chan struct{}),
		ran: make(chan error, 1),
	}
	rules := history.Rules{"room:*": w.plan.keep}
	if w.log == nil {
		n.ps = pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{Now: w.clocks[i].now}), rules)
	} else {
		name := fmt.Sprint("node", i)
		n.ps = pubsub.NewRecorded(w.adapters.Node(name), w.log.Log(name), rules)
	}
	var ctx context.Context
	ctx, n.cancel = context.WithCancel(context.Background())
	go func() { n.ran <- n.ps.Run(ctx) }()
	if w.plan.observed {
		n.observed = n.ps.Subscribe(topic, &observer{w: w, node: i})
	}
	nop := zerolog.Nop()
	options := []channel.Option[room]{channel.On("say", w.say)}
	if w.plan.intercepts {
		options = append(options, channel.Intercept("secret", reveal))
	}
	if w.plan.reach > 0 {
		options = append(options, channel.Reach(func(r *room, _ context.Context, _ *channel.Channel) time.Time {
			// Records have times in milliseconds.
			r.reach, r.began = w.clocks[i].now().Add(-w.plan.reach).Truncate(time.Millisecond), w.Len()
			return r.reach
		}))
	}
	n.handler = socket.NewHandler(socket.Config{
		Channels: channel.Routes{"room:*": channel.Define(n.join, options...)},
		PubSub:   n.ps, MaxQueue: w.plan.maxQueue, Logger: &nop,
		// The pages send no heartbeats. A join of one that came back would repair the topic for all.
		IdleTimeout: time.Hour,
	})
	n.server = &http.Server{Handler: n.handler, ErrorLog: log.New(io.Discard, "", 0)}
	go func() {
		defer close(n.served)
		_ = n.server.Serve(n) // it ends when the node is stopped
	}()
	return n
}

func (w *world) stop(n *node) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := n.handler.Shutdown(ctx); err != nil {
		w.t.Errorf("seed %d: %v", w.seed, err)
	}
	if err := n.server.Close(); err != nil {
		w.t.Errorf("seed %d: %v", w.seed, err)
	}
	<-n.served
	if n.observed != nil {
		n.observed.Cancel() // a node without its log delivers what it held
	}
	n.cancel()
	if err := <-n.ran; err != nil {
		w.t.Errorf("seed %d: Run: %v", w.seed, err)
	}
}

// current returns the server number i as it is now.
func (w *world) current(i int) *node {
	w.life.RLock()
	defer w.life.RUnlock()
	return w.nodes[i]
}

// restart replaces the server number i. If it is alone, its log is empty.
func (w *world) restart(i int) {
	w.life.Lock()
	old := w.nodes[i]
	if w.log == nil {
		w.recordTimes()
		w.Fault("epoch")
	}
	w.nodes[i] = w.start(i)
	w.life.Unlock()
	w.stop(old)
}

// store puts a new record into the database, before its append.
func (w *world) store(sender, skip string) (id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ids++
	id = fmt.Sprintf("r%d", w.ids)
	w.stored = append(w.stored, id)
	w.Append(sender, id, skip)
	for _, why := range w.begun {
		w.Fault(why)
	}
	if w.skewed {
		w.Fault("trimmed")
	}
	return id
}

func (w *world) snapshot() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.stored)
}

// join loads the database for a client that cannot continue. It takes a while, and records are
// appended before and after it reads.
func (n *node) join(r *room, ctx context.Context, c *channel.Channel, p serializer.Payload) (any, error) {
	var params struct {
		Client string
		Slow   int // milliseconds
	}
	if err := p.Decode(&params); err != nil {
		return nil, err
	}
	r.client, r.node = params.Client, n
	r.name = fmt.Sprintf("channel %d of %s", n.world.channels.Add(1), r.client)
	reply := map[string]any{}
	if !r.reach.IsZero() {
		reply["reach"], reply["began"] = r.reach, r.began
	}
	if c.Resume().OK {
		return reply, nil
	}
	pause := time.Duration(params.Slow) * time.Millisecond
	if err := sleep(ctx, pause); err != nil {
		return nil, err
	}
	reply["loaded"], reply["since"] = n.world.snapshot(), c.Resume().Since
	return reply, sleep(ctx, pause)
}

// revealed is what clients receive of a record that the handler intercepts.
type revealed struct {
	ID     string `json:"id"`
	Passed bool   `json:"passed"` // through the handler
}

func reveal(_ *room, _ context.Context, c *channel.Channel, r revealed) error {
	r.Passed = true
	return c.Push("secret", r)
}

// say broadcasts a record of a client to the others.
func (w *world) say(r *room, ctx context.Context, c *channel.Channel, _ serializer.Payload) (push.Reply, error) {
	if w.log == nil {
		w.life.RLock()
		defer w.life.RUnlock()
		if r.node != w.nodes[0] {
			return push.NoReply, push.Reject("the server restarts")
		}
	}
	id := w.store(r.name, r.client)
	err := c.BroadcastFrom("msg", w.record(id))
	w.ended(id, "", err)
	if err != nil {
		return push.NoReply, err
	}
	return push.OK(nil), nil
}

// ended records how the append of a record ended.
func (w *world) ended(id, pos string, err error) {
	switch {
	case err == nil:
		w.Appended(id, pos)
	case errors.Is(err, history.ErrUncertain):
		w.Uncertain(id)
	default:
		w.Failed(id)
	}
}

func (w *world) record(id string) any {
	return map[string]string{"id": id, "pad": strings.Repeat("x", w.plan.pad)}
}

// broadcast is a job of the application that broadcasts until ctx ends.
func (w *world) broadcast(ctx context.Context, name string, rnd *rand.Rand) {
	for sleep(ctx, time.Duration(rnd.IntN(100))*time.Millisecond) == nil {
		event := "msg"
		if w.plan.intercepts && rnd.IntN(5) == 0 {
			event = "secret"
		}
		i := rnd.IntN(len(w.nodes))
		for range 1 + rnd.IntN(6) {
			if w.log == nil {
				w.append(name, event)
			} else {
				w.appendAndNotify(w.current(i), name, event)
			}
		}
	}
}

// append appends to the log of one node.
func (w *world) append(sender, event string) {
	w.life.RLock()
	defer w.life.RUnlock()
	id := w.store(sender, "")
	pos, err := w.nodes[0].ps.Append(context.Background(), topic, event, w.record(id))
	w.ended(id, pos.String(), err)
	if err != nil {
		w.t.Errorf("seed %d: append: %v", w.seed, err)
	}
}

// sleep waits in virtual time, and returns an error if ctx ended first.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
