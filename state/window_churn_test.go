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

	"bennu.example/channel"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/mailbox"
	"bennu.example/pubsub"
	"bennu.example/serializer"
	"bennu.example/state"
	"bennu.example/transport"
)

// watcher is a client without a network. With luck it has no room for a page now and then.
type watcher struct {
	sink
	c    channelhost.Channel
	want func(all []state.Item) viewer

	mu     sync.Mutex
	luck   *rand.Rand // nil if there is always room
	frames [][]byte
	waits  channelhost.Channel // nil if it does not wait
}

func (w *watcher) Send(f *serializer.Frame, how transport.Delivery) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if how.IfRoom && w.luck != nil && w.luck.IntN(3) == 0 {
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

// join joins the map with the member "$state". It does not wait.
func (w *watcher) join(h *channel.Handler, workers *mailbox.Workers, params string) {
	w.ps, w.ser = pubsub.New(nil), serializer.V2()
	var p serializer.Payload
	_ = p.UnmarshalJSON([]byte(`{"$state":` + params + `}`)) // it never fails
	ref := serializer.StringRef("1")
	w.c = channelhost.Start(w, channelhost.Join{
		Handler: h, MaxMailbox: 1 << 20, Workers: workers,
		Message: serializer.Message{JoinRef: ref, Ref: ref, Topic: simTopic, Event: serializer.EventJoin, Payload: p},
	})
}

// see applies the frames that the client was sent, and removes them.
func (w *watcher) see(t *testing.T, v viewer) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.frames {
		m := parse(t, f)
		if m.Event == "phx_error" || m.Event == "phx_close" {
			t.Fatal(m)
		}
		v.see(t, m)
	}
	w.frames = nil
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
			w.want = func(all []state.Item) viewer {
				v := viewer{}
				for _, it := range part.want(all) {
					v[it.Key] = it.Rev
				}
				return v
			}
			w.join(handler, &workers, `{`+part.keys+`}`)
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
			w.see(t, seen[i])
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

// readStore is a store that calls functions before and after a read of items, once each.
type readStore struct {
	state.Store
	before, after func()
}

func (s *readStore) Read(
	ctx context.Context, object string, r state.Range, next string, limit int,
) (state.Page, error) {
	call := func(f *func()) {
		if g := *f; limit > 0 && g != nil {
			*f = nil
			g()
		}
	}
	call(&s.before)
	defer call(&s.after)
	return s.Store.Read(ctx, object, r, next, limit)
}

// TestWindowWrittenWhileRead has writes while a client reads its window: a write after the window
// was read, before the reply to the join, and one between a change and the read that refills the
// window.
func TestWindowWrittenWhileRead(t *testing.T) {
	t.Parallel()
	store := &readStore{Store: state.NewMemory(state.MemoryConfig{})}
	objects := state.New(store)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- objects.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	write := func(ops ...state.Op) {
		if _, err := objects.Apply(ctx, simTopic, ops, state.Tx{}); err != nil {
			t.Error(err)
		}
	}
	put := func(key string) state.Op { return state.Op{Key: key, Value: []byte(`1`)} }
	write(put("a"), put("c"))
	store.after = func() { write(put("b"), state.Op{Key: "c", Delete: true}) }

	var workers mailbox.Workers
	w, v := new(watcher), viewer{}
	w.join(objects.Maps(state.Config{}), &workers, `{"keys":{"first":2}}`)
	defer func() {
		w.c.Close(channel.ErrClosed)
		w.c.Wait()
		workers.Wait()
	}()
	expect := func(want viewer) {
		t.Helper()
		workers.Wait()
		if w.see(t, v); !maps.Equal(v, want) {
			t.Errorf("the client has %v, want %v", v, want)
		}
	}
	expect(viewer{"a": 1, "b": 3})
	write(put("d"))
	store.before = func() { write(put("d")); write(put("d")) } // the window is sent the last one only
	write(state.Op{Key: "a", Delete: true})
	expect(viewer{"b": 3, "d": 8})
}
