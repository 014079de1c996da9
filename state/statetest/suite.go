package statetest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"bennu.example/history"
	"bennu.example/state"
)

// patience is how long the suite waits for an event, on a busy machine.
const patience = 30 * time.Second

// Engine describes a store to the suite. A function that is nil skips the tests that need it. Skips
// must list its name, so that nothing is skipped by accident.
type Engine struct {
	// Store is the store of one node. The suite calls Run on it.
	Store state.Store
	// Node returns the store of another node with the same contents. The suite calls Run on it.
	Node func(t testing.TB) state.Store
	// Restart ends the store and its process, and returns the store of the next process.
	Restart func(t testing.TB) state.Store
	// Rollback removes the newest n writes of an object, as a failover to a replica without them does.
	Rollback func(t testing.TB, object string, n int)
	// Freeze stops the engine, so that it answers nothing, and returns a function that lets it go on.
	Freeze func(t testing.TB) (thaw func())

	Durable    bool     // objects survive Restart
	MaxObjects int      // beyond it, creating objects fails with ErrQuota; zero means that this is not tested
	Skips      []string // the names of the functions that are nil
}

// Run runs the suite. It calls setup for each test, which must return an engine with a new store.
func Run(t *testing.T, setup func(t *testing.T) Engine) {
	for _, test := range []struct {
		name string
		f    func(t *testing.T, e Engine)
	}{
		{"skips", skips},
		{"put and read", putAndRead},
		{"revisions and positions", revisions},
		{"conditions", conditions},
		{"conditions raced", conditionsRaced},
		{"all or nothing", allOrNothing},
		{"deletions", deletions},
		{"own", own},
		{"moves", moves},
		{"subtrees", subtrees},
		{"puts over subtrees", putsOverSubtrees},
		{"puts in subtrees", putsInSubtrees},
		{"conditions on subtrees", subtreeConditions},
		{"own moves and subtrees", ownParts},
		{"quotas of moves and subtrees", partQuotas},
		{"modes", modes},
		{"creation raced", creationRaced},
		{"ids", ids},
		{"ids raced", idsRaced},
		{"ids of deletions", deletionIDs},
		{"ids of removals", removalIDs},
		{"ids of writes that change nothing", unchangedIDs},
		{"refused writes", refused},
		{"quotas", quotas},
		{"many objects", manyObjects},
		{"pages", pages},
		{"pages with concurrent writes", pagesRaced},
		{"reading creates nothing", readingCreatesNothing},
		{"changes since", changesSince},
		{"changes in pages", changesInPages},
		{"changes trimmed", changesTrimmed},
		{"deletions trimmed", deletionsTrimmed},
		{"changes against a model", changesModel},
		{"changes of subtrees", subtreeChanges},
		{"subtrees trimmed", subtreesTrimmed},
		{"subtrees and moves against a model", subtreesModel},
		{"feed of moves and subtrees", partsFeed},
		{"items expire", itemsExpire},
		{"objects expire", objectsExpire},
		{"expiry once", expiryOnce},
		{"remove", remove},
		{"feed", feeds},
		{"watch, then read", watchThenRead},
		{"one order of writes", linear},
		{"a number counted", counted},
		{"health and run", run},
		{"restart", restart},
		{"rollback", rollback},
		{"frozen engine", frozen},
	} {
		t.Run(test.name, func(t *testing.T) { test.f(t, setup(t)) })
	}
}

func skips(t *testing.T, e Engine) {
	v := reflect.ValueOf(e)
	for f, value := range v.Fields() {
		if f.Type.Kind() == reflect.Func && value.IsNil() != slices.Contains(e.Skips, f.Name) {
			t.Errorf("%s: nil is %v, but Skips is %v", f.Name, value.IsNil(), e.Skips)
		}
	}
	for _, name := range e.Skips {
		if f := v.FieldByName(name); !f.IsValid() || f.Kind() != reflect.Func {
			t.Errorf("Skips has %q, which is no function of Engine", name)
		}
	}
}

// node is a store under test, which is running.
type node struct {
	t *testing.T
	state.Store

	mu        sync.Mutex
	changes   []state.Change
	uncertain int
	arrived   chan struct{} // closed when something was fed
	stop      func()        // ends Run
}

func start(t *testing.T, s state.Store) *node {
	t.Helper()
	n := &node{t: t, Store: s, arrived: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, state.Inbox{Change: n.change, Uncertain: n.notSure}) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run does not end")
		}
	})
	t.Cleanup(n.stop)
	return n
}

func (n *node) change(c state.Change) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.changes = append(n.changes, c)
	close(n.arrived)
	n.arrived = make(chan struct{})
}

func (n *node) notSure(error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.uncertain++
	close(n.arrived)
	n.arrived = make(chan struct{})
}

// await waits until ok returns true for what was fed.
func (n *node) await(what string, ok func(changes []state.Change, uncertain int) bool) {
	n.t.Helper()
	limit := time.After(patience)
	for {
		n.mu.Lock()
		done, arrived := ok(n.changes, n.uncertain), n.arrived
		n.mu.Unlock()
		if done {
			return
		}
		select {
		case <-arrived:
		case <-limit:
			n.t.Fatalf("not fed: %s", what)
		}
	}
}

// watch begins the feed of an object and waits until it has begun.
func (n *node) watch(object string) {
	n.t.Helper()
	ready := make(chan error, 64)
	n.Watch(object, func(err error) { ready <- err })
	limit := time.After(patience)
	for {
		select {
		case err := <-ready:
			if err == nil {
				return
			}
		case <-limit:
			n.t.Fatal("the feed does not begin")
		}
	}
}

// apply performs ops, which must succeed.
func (n *node) apply(object string, ops ...state.Op) state.Applied {
	n.t.Helper()
	a, err := n.Apply(ctxOf(n.t), object, ops, state.Tx{Writer: "w"})
	if err != nil {
		n.t.Fatalf("apply: %v", err)
	}
	if len(a.Revs) != len(ops) {
		n.t.Fatalf("%d revisions for %d ops", len(a.Revs), len(ops))
	}
	return a
}

// fails performs ops, which must fail, and leave the object as it is. Nil means that they must be
// in conflict.
func (n *node) fails(object string, tx state.Tx, want error, ops ...state.Op) {
	n.t.Helper()
	_ = n.failure(object, tx, want, ops...) // it has reported any other outcome
}

// failure is fails, and returns the error.
func (n *node) failure(object string, tx state.Tx, want error, ops ...state.Op) error {
	n.t.Helper()
	before, items := n.top(object), n.all(object)
	_, err := n.Apply(ctxOf(n.t), object, ops, tx)
	var conflict *state.ConflictError
	if want == nil && !errors.As(err, &conflict) || want != nil && !errors.Is(err, want) {
		n.t.Errorf("error %v, want %v", err, want)
	}
	if top, now := n.top(object), n.all(object); top != before || !reflect.DeepEqual(now, items) {
		n.t.Errorf("a failed write changed %s to %s", before, top)
	}
	return err
}

func (n *node) top(object string) history.Position {
	n.t.Helper()
	tops, err := n.Tops(ctxOf(n.t), []string{object})
	if err != nil || len(tops) != 1 {
		n.t.Fatalf("tops: %v, %v", tops, err)
	}
	return tops[0]
}

// all reads an object.
func (n *node) all(object string) map[string]state.Item {
	n.t.Helper()
	return n.read(object, state.Range{}, 1000)
}

// read reads a range in pages, and checks their order.
func (n *node) read(object string, r state.Range, limit int) map[string]state.Item {
	n.t.Helper()
	items := make(map[string]state.Item)
	last, next := "", ""
	for {
		p, err := n.Read(ctxOf(n.t), object, r, next, limit)
		if err != nil {
			n.t.Fatalf("read: %v", err)
		}
		if len(p.Items) > limit {
			n.t.Fatalf("%d items, at most %d wanted", len(p.Items), limit)
		}
		for _, it := range p.Items {
			follows := it.Key > last && !r.Reverse || it.Key < last && r.Reverse || len(items) == 0
			if !follows || !r.Has(it.Key) || it.Deleted != "" || it.Rev == 0 {
				n.t.Fatalf("item %+v after %q", it, last)
			}
			last = it.Key
			items[it.Key] = it
		}
		if p.Next == "" {
			return items
		}
		next = p.Next
	}
}

// since reads all changes after a position in pages, and checks their order. It returns the newest
// of each key.
func (n *node) since(object string, p history.Position, limit int) (map[string]state.Item, error) {
	n.t.Helper()
	changes, err := n.inOrder(object, p, limit)
	if err != nil {
		return nil, err
	}
	items := make(map[string]state.Item)
	for _, it := range changes {
		items[it.Key] = it
	}
	return items, nil
}

// inOrder is since, with all changes in their order.
func (n *node) inOrder(object string, p history.Position, limit int) (items []state.Item, err error) {
	n.t.Helper()
	last := uint64(0)
	for {
		page, err := n.Changes(ctxOf(n.t), object, p, state.Range{}, limit)
		if err != nil {
			return nil, err
		}
		for _, it := range page.Items {
			if it.Rev <= last || it.Rev > page.Position.Offset() {
				n.t.Fatalf("change %+v after revision %d, up to %s", it, last, page.Position)
			}
			last = it.Rev
			items = append(items, it)
		}
		p = page.Position
		if !page.More {
			return items, nil
		}
	}
}

// update makes the changes to a copy.
func update(copied map[string]state.Item, changes map[string]state.Item) {
	for _, it := range changes {
		updateItem(copied, it)
	}
}

func updateItem(copied map[string]state.Item, it state.Item) {
	if it.Under {
		for key := range copied {
			if state.Subtree(it.Key).Has(key) {
				delete(copied, key)
			}
		}
	}
	if it.Deleted != "" {
		delete(copied, it.Key)
	} else {
		copied[it.Key] = it
	}
}

// equal fails the test if two copies have different items.
func equal(t *testing.T, got, want map[string]state.Item) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d items, want %d", len(got), len(want))
	}
	for key, w := range want {
		if g := got[key]; string(g.Value) != string(w.Value) || g.Rev != w.Rev {
			t.Errorf("%q is %s, revision %d, want %s, revision %d", key, g.Value, g.Rev, w.Value, w.Rev)
		}
	}
}

func ctxOf(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func put(key, value string) state.Op { return state.Op{Key: key, Value: []byte(value)} }
func del(key string) state.Op        { return state.Op{Key: key, Delete: true} }

// number is a value.
func number(n int) string { return fmt.Sprint(n) }

// when returns op with a condition.
func when(rev uint64, op state.Op) state.Op {
	op.If = &rev
	return op
}

// lasting returns op with a lifetime.
func lasting(d time.Duration, op state.Op) state.Op {
	op.TTL = &d
	return op
}
