package will_test

import (
	"context"
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
