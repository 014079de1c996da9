package will_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/will"
)

// racedTable calls functions after the calls of two of its methods.
type racedTable struct {
	will.Table

	afterOfNode, afterEnded func()
}

func (r *racedTable) OfNode(ctx context.Context, node string, most int) ([]string, error) {
	keys, err := r.Table.OfNode(ctx, node, most)
	r.afterOfNode()
	return keys, err
}

func (r *racedTable) Ended(ctx context.Context) ([]will.Lease, error) {
	ended, err := r.Table.Ended(ctx)
	r.afterEnded()
	return ended, err
}

// A node that was away has a lease again, and stores its wills, while another node makes the wills
// of all nodes due whose lease has ended. Those of the node that returned are not due, whatever the
// other node has read by then.
func TestExpireOfNodeThatReturns(t *testing.T) {
	t.Parallel()
	for name, returns := range map[string]func(r *racedTable, f func()){
		"after the ended leases were read": func(r *racedTable, f func()) { r.afterEnded = onCall(1, f) },
		"after its entries were found":     func(r *racedTable, f func()) { r.afterOfNode = onCall(1, f) },
		"after its lease was read again":   func(r *racedTable, f func()) { r.afterEnded = onCall(2, f) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			r := &racedTable{Table: will.NewTable(10), afterOfNode: func() {}, afterEnded: func() {}}
			s := will.NewStore(r, 0)
			check := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			lease := func(node string, d time.Duration) {
				t.Helper()
				_, err := s.Lease(ctx, node, d)
				check(err)
			}
			put := func(node string) {
				t.Helper()
				c := will.Connection{ID: "connection of " + node, ClientID: "client of " + node}
				check(s.Put(ctx, will.Will{ID: "will of " + node, Topic: "room", Event: "gone", Connection: c, Node: node}))
			}
			for _, node := range []string{"dead", "away"} {
				lease(node, time.Hour)
				put(node)
				lease(node, 0)
			}
			returned := false
			returns(r, func() {
				returned = true
				lease("away", time.Hour)
				put("away")
			})
			check(s.Expire(ctx))
			check(s.Expire(ctx)) // for what the first one has left
			claimed, err := s.Claim(ctx, 10, time.Hour)
			check(err)
			if len(claimed) != 1 || claimed[0].Node != "dead" || !returned {
				t.Errorf("claimed %+v, and the node has returned: %v", claimed, returned)
			}
		})
	}
}

// onCall returns a function that calls f when it is called for the nth time.
func onCall(n int, f func()) func() {
	calls := 0
	return func() {
		if calls++; calls == n {
			f()
		}
	}
}

// countedTable counts the requests of a table that needs one for each lease and each entry.
type countedTable struct {
	will.Table

	leases, entries atomic.Int64
}

func (c *countedTable) Ended(ctx context.Context) ([]will.Lease, error) {
	ended, err := c.Table.Ended(ctx)
	c.leases.Add(int64(len(ended)))
	return ended, err
}

func (c *countedTable) Get(ctx context.Context, key string) (will.Entry, error) {
	c.entries.Add(1)
	return c.Table.Get(ctx, key)
}

// When many nodes end together, their leases are read once to find them, and once more for each 256
// entries, not for each of the nodes. Each entry is read once.
func TestExpireOfManyNodes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ nodes, perNode, rounds int }{{1, 1, 1}, {100, 2, 1}, {9, 32, 2}} {
		t.Run(fmt.Sprintf("%d with %d wills", test.nodes, test.perNode), func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			c := &countedTable{Table: will.NewTable(10)}
			s := will.NewStore(c, 0)
			for n := range test.nodes {
				node := fmt.Sprint("node ", n)
				if _, err := s.Lease(ctx, node, time.Hour); err != nil {
					t.Fatal(err)
				}
				for i := range test.perNode {
					id := fmt.Sprint(node, ", will ", i)
					w := will.Will{ID: id, Topic: "room", Event: "gone", Node: node,
						Connection: will.Connection{ID: "connection of " + id, ClientID: "client of " + id}}
					if err := s.Put(ctx, w); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := s.Lease(ctx, node, 0); err != nil {
					t.Fatal(err)
				}
			}
			c.entries.Store(0)
			if err := s.Expire(ctx); err != nil {
				t.Fatal(err)
			}
			all := test.nodes * test.perNode
			most := test.nodes * (1 + test.rounds)
			if n, entries := int(c.leases.Load()), int(c.entries.Load()); n > most || entries != all {
				t.Errorf("read %d leases, want %d at most, and %d entries, want %d", n, most, entries, all)
			}
			if ended, err := c.Table.Ended(ctx); err != nil || len(ended) != 0 {
				t.Errorf("%d leases are left, %v", len(ended), err)
			}
			claimed, err := s.Claim(ctx, all+1, time.Hour)
			if err != nil || len(claimed) != all {
				t.Errorf("claimed %d wills, want %d, %v", len(claimed), all, err)
			}
		})
	}
}

// A client on one topic may have wills of connections to more than one node. Each is due after its
// own node has ended.
func TestExpireOfSharedEntry(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := &countedTable{Table: will.NewTable(10)}
	s := will.NewStore(c, 0)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	connection := will.Connection{ID: "connection", ClientID: "client"}
	for _, node := range []string{"a", "b", "living"} {
		_, err := s.Lease(ctx, node, time.Hour)
		check(err)
		check(s.Put(ctx, will.Will{ID: node, Topic: "room", Event: "gone", Node: node, Connection: connection}))
	}
	for _, node := range []string{"a", "b"} {
		_, err := s.Lease(ctx, node, 0)
		check(err)
	}
	c.entries.Store(0)
	check(s.Expire(ctx))
	if n := c.entries.Load(); n != 1 {
		t.Errorf("read the entry %d times", n)
	}
	claimed, err := s.Claim(ctx, 10, time.Hour)
	check(err)
	if len(claimed) != 2 || claimed[0].Node == "living" || claimed[1].Node == "living" {
		t.Errorf("claimed %+v", claimed)
	}
}
