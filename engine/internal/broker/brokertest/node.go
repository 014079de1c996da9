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

// node is a running adapter with a PubSub. It records what it receives.
type node struct {
	t      testing.TB
	ps     *pubsub.PubSub
	a      pubsub.Adapter
	stop   func()
	probes int

	mu   sync.Mutex
	log  bytes.Buffer
	gaps []error
	got  map[string][]int // the received numbers, by stream
	gate sync.RWMutex     // a test locks it to make this node slow
}

// start runs a node that subscribes to Topic.
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

// Write receives what the adapter logs.
func (n *node) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.log.Write(p)
}

// Deliver implements pubsub.Subscriber. An event is the name of a stream, a slash and a number.
func (n *node) Deliver(b *pubsub.Broadcast) error {
	n.gate.RLock()
	defer n.gate.RUnlock()
	stream, number, _ := strings.Cut(b.Event, "/")
	i, err := strconv.Atoi(number)
	if err != nil {
		n.t.Errorf("%s: received %q", n.a.Node(), b.Event)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.got[stream] = append(n.got[stream], i)
	return nil
}

// received returns the received numbers of a stream.
func (n *node) received(stream string) []int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.got[stream][:len(n.got[stream]):len(n.got[stream])]
}

// gapCount returns the number of gaps.
func (n *node) gapCount() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.gaps)
}

// countLog returns how often a text occurs in the log.
func (n *node) countLog(text string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Count(n.log.String(), text)
}

func (n *node) broadcast(stream string, i int) error { return n.broadcastSized(stream, i, 0) }

func (n *node) broadcastSized(stream string, i, size int) error {
	event, payload := fmt.Sprintf("%s/%d", stream, i), serializer.Binary(make([]byte, size))
	return n.ps.Broadcast(context.Background(), Topic, event, payload)
}

// waitUntil waits for a condition.
func (n *node) waitUntil(what string, ok func() bool) {
	n.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			n.t.Fatalf("%s: not %s after %v; health %+v", n.a.Node(), what, patience, n.ps.Health())
		}
	}
}

func (n *node) waitConnected(want bool) {
	n.t.Helper()
	n.waitUntil(fmt.Sprintf("connected: %v", want), func() bool { return n.ps.Health().Connected == want })
}

// drain waits until the engine has acknowledged everything that the node published. The engine has
// then also sent everything that was published to the node before.
func (n *node) drain() {
	n.t.Helper()
	if err := n.a.Publish(context.Background(), "", &pubsub.Broadcast{Topic: "without subscribers"}); err != nil {
		n.t.Error(err)
	}
	n.waitUntil("drained", func() bool { return n.ps.Health().Queued == 0 })
}

// waitJoined waits until each node receives broadcasts of each other node.
func waitJoined(nodes ...*node) {
	nodes[0].t.Helper()
	for _, from := range nodes {
		from.probes++
		probe := fmt.Sprintf("probe %d of %s", from.probes, from.a.Node())
		next := time.Time{}
		from.waitUntil("received by all", func() bool {
			if time.Now().After(next) {
				_ = from.broadcast(probe, 0) // retried while the engine is not available
				next = time.Now().Add(20 * time.Millisecond)
			}
			return !slices.ContainsFunc(nodes, func(to *node) bool { return len(to.received(probe)) == 0 })
		})
	}
}
