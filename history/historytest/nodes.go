package historytest

import (
	"fmt"
	"sync"
	"testing"

	"bennu.example/history"
)

// startTwo starts the logs of two nodes.
func startTwo(t *testing.T, e Engine) (a, b *node) {
	t.Helper()
	if e.Node == nil {
		t.Skip("Node is nil")
	}
	return start(t, e.Log), start(t, e.Node(t))
}

// twoNodes appends at one node and reads at the other.
func twoNodes(t *testing.T, e Engine) {
	a, b := startTwo(t, e)
	begin := a.top("t")
	if b.top("t") != begin {
		t.Errorf("the top of an empty topic is %v and %v", begin, b.top("t"))
	}
	a.watchNow("t")
	b.watchNow("t")
	at := begin
	for i := range 50 {
		from, to := a, b
		if i%2 == 1 {
			from, to = b, a
		}
		r := from.append("t", 1, keep)[0]
		if to.top("t") != r.Position {
			t.Errorf("record %d: the other node has the top %v, want %v", i, to.top("t"), r.Position)
		}
		if got := to.read("t", at); len(got.Records) != 1 || text(got.Records[0]) != text(r) || got.Top != r.Position {
			t.Errorf("record %d: the other node read %+v, want %+v", i, got, r)
		}
		at = r.Position
	}
	a.checkFeed("t", begin, begin)
	b.checkFeed("t", begin, begin)
}

// twoNodesAppend appends at two nodes concurrently. Both have the same order.
func twoNodesAppend(t *testing.T, e Engine) {
	a, b := startTwo(t, e)
	begin := a.top("t")
	a.watchNow("t")
	b.watchNow("t")
	const writers, each = 4, 25
	var wg sync.WaitGroup
	for w := range writers {
		n := []*node{a, b}[w%2]
		wg.Go(func() {
			for i := range each {
				r := history.Record{Event: "e", Payload: object(i), Origin: fmt.Sprint(w)}
				if _, err := n.Append(t.Context(), "t", r, keep); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	atA, atB := a.read("t", begin), b.read("t", begin)
	if atA.Top != atB.Top {
		t.Errorf("the tops are %v and %v", atA.Top, atB.Top)
	}
	a.same(atA.Records, atB.Records)
	next := make(map[string]int)
	for _, r := range atA.Records {
		var p map[string]int
		if err := r.Payload.Decode(&p); err != nil {
			t.Fatal(err)
		}
		if p["n"] != next[r.Origin] {
			t.Errorf("record %d of writer %s comes after %d others", p["n"], r.Origin, next[r.Origin])
		}
		next[r.Origin]++
	}
	if len(atA.Records) != writers*each {
		t.Errorf("got %d records", len(atA.Records))
	}
	a.checkFeed("t", begin, begin)
	b.checkFeed("t", begin, begin)
}

// twoNodesID appends records with the same IDs at two nodes concurrently.
func twoNodesID(t *testing.T, e Engine) {
	a, b := startTwo(t, e)
	begin := a.top("t")
	const all = 20
	var got [2][all]history.Position
	var wg sync.WaitGroup
	for i, n := range []*node{a, b} {
		wg.Go(func() {
			for id := range all {
				r, err := n.Append(t.Context(), "t", history.Record{Event: "e", ID: fmt.Sprint(id)}, keep)
				if err != nil {
					t.Error(err)
				}
				got[i][id] = r.Position
			}
		})
	}
	wg.Wait()
	if got[0] != got[1] {
		t.Errorf("the nodes got different positions:\n%v\n%v", got[0], got[1])
	}
	if n := len(a.read("t", begin).Records); n != all {
		t.Errorf("got %d records, want %d", n, all)
	}
}

// twoNodesForget forgets a topic at one node. The other learns of it.
func twoNodesForget(t *testing.T, e Engine) {
	a, b := startTwo(t, e)
	old := a.append("t", 3, keep)
	b.watchNow("t")
	b.watchNow("u")
	if err := a.Forget(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	b.waitFor("notified of Forget", func() bool { return b.forgotten["t"] > 0 || b.gaps > 0 })
	for _, r := range old {
		if got, err := b.Read(t.Context(), "t", r.Position, 10); !e.lost(answer(got, err)) {
			t.Errorf("after the forgotten record %v: %v", r.Position, err)
		}
	}
	begin := b.top("t")
	if begin != a.top("t") {
		t.Errorf("the new beginning is %v and %v", begin, a.top("t"))
	}
	all := a.append("t", 3, keep)
	b.same(b.read("t", begin).Records, all)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.forgotten["u"] > 0 {
		t.Error("another topic was forgotten")
	}
}
