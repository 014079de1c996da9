package brokertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/history"
	"bennu.example/state"
)

// ObjectNode is a store of objects that runs until the test ends, and what it has fed.
type ObjectNode struct {
	state.Store
	Stop func() // ends Run

	t         testing.TB
	mu        sync.Mutex
	changes   []state.Change
	uncertain int
}

// RunObjects runs a store. It does not wait for the connection.
func RunObjects(t testing.TB, s state.Store) *ObjectNode {
	t.Helper()
	n := &ObjectNode{t: t, Store: s}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	in := state.Inbox{Change: func(c state.Change) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.changes = append(n.changes, c)
	}, Uncertain: func(error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.uncertain++
	}}
	go func() { done <- n.Run(ctx, in) }()
	n.Stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(n.Stop)
	return n
}

// StartObjects runs a store, and waits until it is connected.
func StartObjects(t testing.TB, s state.Store) *ObjectNode {
	t.Helper()
	n := RunObjects(t, s)
	n.Until("connected", func() bool { return n.Health().Connected })
	return n
}

// Until waits until ok returns true.
func (n *ObjectNode) Until(what string, ok func() bool) {
	n.t.Helper()
	WaitUntil(n.t, what, ok)
}

// Fed reports whether the node was fed a change up to a position.
func (n *ObjectNode) Fed(p history.Position) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.changes, func(c state.Change) bool { return c.Position == p })
}

// FedChanges returns what the node was fed.
func (n *ObjectNode) FedChanges() []state.Change {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.changes)
}

// Write performs ops, which must succeed.
func (n *ObjectNode) Write(object string, ops ...state.Op) state.Applied {
	n.t.Helper()
	a, err := n.Apply(n.t.Context(), object, ops, state.Tx{})
	if err != nil {
		n.t.Fatal(err)
	}
	return a
}

// Put returns an op that puts an item.
func Put(key, value string) state.Op { return state.Op{Key: key, Value: []byte(value)} }

// CountUnderFaults lets nodes increment a number, while faults happen to their engine. Each write
// is repeated with its ID until its outcome is known, so the number must be exactly the sum. The
// faults call progress between each other, which waits until some writes have succeeded.
func CountUnderFaults(t *testing.T, start func() *ObjectNode, faults func(progress func())) {
	t.Helper()
	quit := make(chan struct{})
	var total atomic.Int64
	var writers sync.WaitGroup
	var nodes []*ObjectNode
	for w := range 4 {
		n := start()
		n.Watch("o", func(error) {})
		nodes = append(nodes, n)
		writers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-quit:
					return
				default:
				}
				if n.increment("o", fmt.Sprint(w, " ", i)) {
					total.Add(1)
				}
			}
		})
	}
	progress := func() {
		t.Helper()
		before := total.Load()
		WaitUntil(t, "in progress", func() bool { return total.Load() > before+50 || t.Failed() })
	}
	progress()
	faults(progress)
	progress()
	close(quit)
	writers.Wait()
	p, err := nodes[0].Read(t.Context(), "o", state.Range{}, "", 10)
	if err != nil || len(p.Items) != 1 || string(p.Items[0].Value) != fmt.Sprint(total.Load()) {
		t.Fatalf("%+v, %v, want the value %d", p, err, total.Load())
	}
	for _, n := range nodes {
		prev := make(map[history.Position]history.Position)
		for _, c := range n.FedChanges() {
			if other, ok := prev[c.Prev]; ok && other != c.Position {
				t.Errorf("both %s and %s follow %s", other, c.Position, c.Prev)
			}
			prev[c.Prev] = c.Position
		}
		n.mu.Lock()
		if n.uncertain == 0 {
			t.Error("nothing was reported as uncertain")
		}
		n.mu.Unlock()
	}
}

// increment increments a number if nobody is faster. It returns when the outcome is known.
func (n *ObjectNode) increment(object, id string) (done bool) {
	t := n.t
	try := func(f func(ctx context.Context) error) error {
		for {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			err := f(ctx)
			cancel()
			if !errors.Is(err, history.ErrUnavailable) || t.Context().Err() != nil {
				return err
			}
		}
	}
	value, rev := 0, uint64(0)
	err := try(func(ctx context.Context) error {
		p, err := n.Read(ctx, object, state.Range{}, "", 1)
		if err != nil || len(p.Items) == 0 {
			return err
		}
		rev = p.Items[0].Rev
		value, err = strconv.Atoi(string(p.Items[0].Value))
		return err
	})
	if err != nil {
		t.Error(err)
		return false
	}
	ops := []state.Op{{Key: "n", Value: []byte(strconv.Itoa(value + 1)), If: &rev}}
	err = try(func(ctx context.Context) error {
		_, err := n.Apply(ctx, object, ops, state.Tx{ID: id})
		return err
	})
	var conflict *state.ConflictError
	if err != nil && !errors.As(err, &conflict) {
		t.Error(err)
	}
	return err == nil
}
