package state_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"

	"bennu.example/internal/channelhost"
	"bennu.example/internal/mailbox"
	"bennu.example/pubsub"
	"bennu.example/serializer"
	"bennu.example/state"
	"bennu.example/transport"
)

// watcher is a client without a network. Now and then it has no room for a page.
type watcher struct {
	sink
	c    channelhost.Channel
	want func(all []state.Item) viewer

	mu     sync.Mutex
	luck   *rand.Rand
	frames [][]byte
	waits  channelhost.Channel // nil if it does not wait
}

func (w *watcher) Send(f *serializer.Frame, how transport.Delivery) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if how.IfRoom && w.luck.IntN(3) == 0 {
		return transport.ErrNoRoom
	}
	w.frames = append(w.frames, f.Data)
	return nil
}

func (w *watcher) Drained(c channelhost.Channel) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.luck.IntN(2) == 0 {
		return true
	}
	w.waits = c
	return false
}

// drain reports whether the channel waited.
func (w *watcher) drain() bool {
	w.mu.Lock()
	waits := w.waits
	w.waits = nil
	w.mu.Unlock()
	if waits == nil {
		return false
	}
	waits.ReadOn()
	return true
}

// TestWindowsUnderChurn has clients of parts of a map of 10,000 keys, which several goroutines
// write. Whenever they rest, each client has what the store has.
func TestWindowsUnderChurn(t *testing.T) {
	t.Parallel()
	const keys, rounds, writers, writes = 10_000, 4, 4, 500
	store := state.NewMemory(state.MemoryConfig{})
	objects := state.New(store)
	write := func(ops ...state.Op) {
		if _, err := objects.Apply(context.Background(), simTopic, ops, state.Tx{}); err != nil {
			t.Error(err)
		}
	}
	op := func(r *rand.Rand) state.Op {
		// Most writes are at both ends, where the windows are.
		n := r.IntN(keys)
		switch r.IntN(4) {
		case 0:
			n = r.IntN(80)
		case 1:
			n = keys - 1 - r.IntN(80)
		}
		o := state.Op{Key: fmt.Sprintf("k%05d", n)}
		if o.Delete = r.IntN(2) == 0; !o.Delete {
			o.Value = fmt.Append(nil, r.IntN(1000))
		}
		return o
	}
	for i := range keys {
		write(state.Op{Key: fmt.Sprintf("k%05d", i), Value: fmt.Append(nil, i%1000)})
	}
	handler := objects.Maps(state.Config{Queries: []state.QueryDef{over}})
	var workers mailbox.Workers
	var all []*watcher
	for _, part := range []struct {
		keys string
		want func(all []state.Item) []state.Item
	}{
		{`"keys":{"first":50}`, func(all []state.Item) []state.Item { return all[:50] }},
		{`"keys":{"last":50}`, func(all []state.Item) []state.Item { return all[len(all)-50:] }},
		{`"keys":{"first":1000}`, func(all []state.Item) []state.Item { return all[:1000] }},
		{`"keys":{"first":1}`, func(all []state.Item) []state.Item { return all[:1] }},
		{`"query":{"name":"over","args":899}`, func(all []state.Item) (part []state.Item) {
			for _, it := range all {
				var n int
				if json.Unmarshal(it.Value, &n) == nil && n > 899 {
					part = append(part, it)
				}
			}
			return part
		}},
	} {
		for i := range 4 {
			w := &watcher{luck: rand.New(rand.NewPCG(uint64(i), 3))}
			w.ps, w.ser = pubsub.New(nil), serializer.V2()
			w.want = func(all []state.Item) viewer {
				v := viewer{}
				for _, it := range part.want(all) {
					v[it.Key] = it.Rev
				}
				return v
			}
			var p serializer.Payload
			_ = p.UnmarshalJSON([]byte(`{"$state":{` + part.keys + `}}`)) // it never fails
			ref := serializer.StringRef("1")
			w.c = channelhost.Start(context.Background(), w, channelhost.Join{
				Handler: handler, MaxMailbox: 1 << 20, Workers: &workers,
				Message: serializer.Message{JoinRef: ref, Ref: ref, Topic: simTopic, Event: serializer.EventJoin, Payload: p},
			})
			all = append(all, w)
		}
	}
	seen := make([]viewer, len(all))
	for i := range seen {
		seen[i] = viewer{}
	}
	for round := range rounds {
		var writing sync.WaitGroup
		for i := range writers {
			writing.Go(func() {
				r := rand.New(rand.NewPCG(uint64(round), uint64(i)))
				for range writes {
					all[r.IntN(len(all))].drain()
					if r.IntN(10) > 0 {
						write(op(r))
						continue
					}
					ops := map[string]state.Op{}
					for range 1 + r.IntN(40) {
						o := op(r)
						ops[o.Key] = o
					}
					var list []state.Op
					for _, o := range ops {
						list = append(list, o)
					}
					write(list...)
				}
			})
		}
		writing.Wait()
		for waits := true; waits; {
			workers.Wait()
			waits = false
			for _, w := range all {
				waits = w.drain() || waits
			}
		}
		items := itemsOf(t, store)
		for i, w := range all {
			for _, f := range w.frames {
				m := parse(t, f)
				if m.Event == "phx_error" || m.Event == "phx_close" {
					t.Fatalf("client %d: %v", i, m)
				}
				seen[i].see(t, m)
			}
			w.frames = nil
			if want := w.want(items); !maps.Equal(seen[i], want) {
				t.Errorf("round %d: client %d has %d items, want %d, or others", round, i, len(seen[i]), len(want))
			}
		}
	}
	for _, w := range all {
		w.c.Close(errors.New("the end"))
		w.c.Wait()
	}
	workers.Wait()
}
