package presence_test

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"testing"

	"bennu.example/presence"
	"bennu.example/pubsub"
)

// heapSize returns the bytes of live objects on the heap.
func heapSize() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestBudget limits the memory of a presence, and the allocations of a track and an untrack, in a
// room of 10,000.
func TestBudget(t *testing.T) {
	const n, bytes, allocs = 10_000, 400, 26
	ps := pubsub.New(nil)
	p := presence.New(ps, presence.Config{Window: -1}) // otherwise up to a second of diffs is in memory as well
	defer p.Close(context.Background())
	defer ps.Subscribe(topic, sink{}).Cancel()
	keys, owners := make([]string, n), make([]owner, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("user-%05d", i)
	}
	var meta any = json.RawMessage(onlineMeta)
	before := heapSize()
	for i, key := range keys {
		if _, err := p.TrackFor(&owners[i], topic, key, meta); err != nil {
			t.Fatal(err)
		}
	}
	if got := (heapSize() - before) / n; got > bytes {
		t.Errorf("%d bytes for each presence, more than %d", got, bytes)
	}
	got := testing.AllocsPerRun(200, func() {
		o := new(owner)
		if _, err := p.TrackFor(o, topic, "someone", meta); err != nil {
			t.Fatal(err)
		}
		o.end()
	})
	if got > allocs {
		t.Errorf("%v allocations to track and untrack, more than %d", got, allocs)
	}
	runtime.KeepAlive(owners)
}
