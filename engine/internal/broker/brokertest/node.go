package brokertest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/serializer"
)

// node is an adapter under a PubSub, running, and all that it heard.
type node struct {
	t      testing.TB
	ps     *pubsub.PubSub
	a      pubsub.Adapter
	stop   func()
	probes int

	mu   sync.Mutex
	log  bytes.Buffer
	gaps []error
	got  map[string][]int // by stream: the numbers that came, in their order
	gate sync.RWMutex     // write-locked by who wants this node to be slow
}

// start runs a node that listens to the topic.
func start(t testing.TB, e Engine, addr string) *node {
	t.Helper()
	n := &node{t: t, got: make(map[string][]int)}
	log := zerolog.New(n)
	n.a = e.New(t, addr, &log)
	n.ps = pubsub.New(n.a)
	n.ps.OnGap(func(err error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.gaps = append(n.gaps, err)
	})
	n.ps.Subscribe(Topic, n)
	n.stop = pubsubtest.Start(t, n.ps)
	t.Cleanup(func() {
		if t.Failed() {
			n.mu.Lock()
			defer n.mu.Unlock()
			t.Logf("%s logged:\n%s", n.a.Node(), n.log.String())
		}
	})
	return n
}

// Write takes what the adapter logs.
func (n *node) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.log.Write(p)
}

// Deliver is part of pubsub.Subscriber. Events are a stream's name, a slash and a number.
func (n *node) Deliver(b *pubsub.Broadcast) error {
	n.gate.RLock()
	defer n.gate.RUnlock()
	stream, number, _ := strings.Cut(b.Event, "/")
	i, err := strconv.Atoi(number)
	if err != nil {
		n.t.Errorf("%s: got %q", n.a.Node(), b.Event)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.got[stream] = append(n.got[stream], i)
	return nil
}

// heard are the numbers of a stream that came.
func (n *node) heard(stream string) []int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.got[stream][:len(n.got[stream]):len(n.got[stream])]
}

func (n *node) gapped() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.gaps)
}

func (n *node) logged(what string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Count(n.log.String(), what)
}

func (n *node) broadcast(stream string, i int) error { return n.broadcastSized(stream, i, 0) }

func (n *node) broadcastSized(stream string, i, size int) error {
	return n.ps.Broadcast(context.Background(), Topic, fmt.Sprintf("%s/%d", stream, i), serializer.Binary(make([]byte, size)))
}

// until waits for a condition.
func (n *node) until(what string, ok func() bool) {
	n.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			n.t.Fatalf("%s: not %s after %v; health %+v", n.a.Node(), what, patience, n.ps.Health())
		}
	}
}

func (n *node) connected(want bool) {
	n.t.Helper()
	n.until(fmt.Sprintf("connected: %v", want), func() bool { return n.ps.Health().Connected == want })
}

// settle waits until the engine has taken all that the node published, and the node all that the engine had sent it before.
func (n *node) settle() {
	n.t.Helper()
	if err := n.a.Publish(context.Background(), "", &pubsub.Broadcast{Topic: "nobody's"}); err != nil {
		n.t.Error(err)
	}
	n.until("settled", func() bool { return n.ps.Health().Queued == 0 })
}

// joined waits until each node hears each other.
func joined(nodes ...*node) {
	nodes[0].t.Helper()
	for _, from := range nodes {
		from.probes++
		probe := fmt.Sprintf("probe %d of %s", from.probes, from.a.Node())
		next := time.Time{}
		from.until("heard by all", func() bool {
			if time.Now().After(next) {
				_ = from.broadcast(probe, 0) // while the engine is away: it is asked again
				next = time.Now().Add(20 * time.Millisecond)
			}
			return !slices.ContainsFunc(nodes, func(to *node) bool { return len(to.heard(probe)) == 0 })
		})
	}
}
