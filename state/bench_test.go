package state_test

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/mailbox"
	"bennu.example/internal/statebench"
	"bennu.example/pubsub"
	"bennu.example/serializer"
	"bennu.example/state"
	"bennu.example/transport"
)

// feedCount is a store that notes the deletions that it feeds.
type feedCount struct {
	state.Store
	deleted chan int
}

func (s feedCount) Run(ctx context.Context, in state.Inbox) error {
	change := in.Change
	in.Change = func(c state.Change) {
		n := 0
		for _, it := range c.Items {
			if it.Deleted != "" {
				n++
			}
		}
		if n > 0 {
			s.deleted <- n
		}
		change(c)
	}
	return s.Store.Run(ctx, in)
}

// filled returns a store with a map of n items, and the keys.
func filled(t testing.TB, n int) (*state.Memory, []string) {
	m := state.NewMemory(state.MemoryConfig{})
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("key%06d", i)
	}
	fill(t, m, keys)
	return m, keys
}

// fill puts items with the keys into the map.
func fill(t testing.TB, s state.Store, keys []string) {
	value := []byte(`1`)
	for _, key := range keys {
		if _, err := s.Apply(t.Context(), simTopic, []state.Op{{Key: key, Value: value}}, state.Tx{}); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkMemoryPut(b *testing.B) {
	m, keys := filled(b, 1000)
	value := []byte(`{"x":12,"y":34}`)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := m.Apply(b.Context(), simTopic, []state.Op{{Key: keys[i%1000], Value: value}}, state.Tx{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMemoryMany has many objects. TestManyExpire logs how long it takes to delete many items.
func BenchmarkMemoryMany(b *testing.B) {
	statebench.Objects(b, func(*testing.B) state.Store { return state.NewMemory(state.MemoryConfig{}) })
}

func BenchmarkMemoryRead(b *testing.B) {
	m, _ := filled(b, 100_000)
	b.ReportAllocs()
	for b.Loop() {
		if p, err := m.Read(b.Context(), simTopic, state.Range{From: "key05"}, "", 256); err != nil || len(p.Items) != 256 {
			b.Fatal(err)
		}
	}
}

// sink is a client that counts its frames.
type sink struct {
	frames atomic.Int64
	ps     *pubsub.PubSub
	ser    serializer.Serializer
}

var _ channelhost.Carrier = (*sink)(nil)

func (s *sink) Serializer() serializer.Serializer     { return s.ser }
func (s *sink) PubSub() *pubsub.PubSub                { return s.ps }
func (s *sink) Outgoing() (_, _ int, _ time.Duration) { return 0, 0, 0 }
func (s *sink) Send(*serializer.Frame, transport.Delivery) error {
	s.frames.Add(1)
	return nil
}
func (s *sink) Congested(channelhost.Channel) bool            { return false }
func (s *sink) Drained(channelhost.Channel) bool              { return true }
func (s *sink) Context() context.Context                      { return context.Background() }
func (s *sink) ClientID() string                              { return "" }
func (s *sink) Identity() (_, _, _ string)                    { return "", "", "" }
func (s *sink) End(channelhost.Channel, ...*serializer.Frame) {}
func (s *sink) Arrive(context.Context, string) error          { return nil }
func (s *sink) Answered()                                     {}
func (s *sink) Batch(f func())                                { f() }
func (s *sink) Ended()                                        {}
func (s *sink) Crashed(channelhost.Channel, string, error)    {}
func (s *sink) Log(channelhost.Channel, string, error)        {}

// audience is a number of clients of one map.
type audience struct {
	sinks    []*sink
	channels []channelhost.Channel
	workers  mailbox.Workers
}

// gather joins n clients of a handler to the map, and waits until all are live.
func gather(t testing.TB, h *channel.Handler, n int) *audience { return gatherBy(t, h, n, `{}`, 2) }

// gatherBy is gather with the member "$state" of the joins, and the frames that each client
// receives until it is live: the reply, and synced.
func gatherBy(t testing.TB, h *channel.Handler, n int, params string, frames int64) *audience {
	a := new(audience)
	ps, ser := pubsub.New(nil), serializer.V2()
	ref := serializer.StringRef("1")
	var p serializer.Payload
	_ = p.UnmarshalJSON([]byte(`{"$state":` + params + `}`)) // it never fails
	for range n {
		s := &sink{ps: ps, ser: ser}
		a.sinks = append(a.sinks, s)
		a.channels = append(a.channels, channelhost.Start(s, channelhost.Join{
			Handler: h, MaxMailbox: 1 << 20, Workers: &a.workers,
			Message: serializer.Message{JoinRef: ref, Ref: ref, Topic: simTopic, Event: serializer.EventJoin, Payload: p},
		}))
	}
	a.workers.Wait()
	t.Cleanup(func() {
		for _, c := range a.channels {
			c.Close(channel.ErrClosed)
			c.Wait()
		}
		a.workers.Wait()
	})
	for _, s := range a.sinks {
		if s.frames.Load() < frames {
			t.Fatal("not live")
		}
	}
	return a
}

// fanOut returns functions that send something to n clients: by a broadcast to channels, and by a
// change of an object.
func fanOut(t testing.TB, n int) (broadcast, change func()) {
	o := state.New(state.NewMemory(state.MemoryConfig{}))
	gather(t, o.Maps(state.Config{}), n)
	op := []state.Op{{Key: "a", Value: []byte(`{"x":12,"y":34}`)}}
	plain := channel.Define(func(*struct{}, context.Context, *channel.Channel, any) (any, error) { return nil, nil })
	ps := gatherBy(t, plain, n, `{}`, 1).sinks[0].ps
	var p serializer.Payload
	_ = p.UnmarshalJSON([]byte(`{"$pos":"k2m9k2m9-8-01qa","key":"a","rev":8,"value":{"x":12,"y":34}}`)) // it never fails
	broadcast = func() {
		if err := ps.Broadcast(t.Context(), simTopic, "put", p); err != nil {
			t.Fatal(err)
		}
	}
	change = func() {
		if _, err := o.Apply(t.Context(), simTopic, op, state.Tx{}); err != nil {
			t.Fatal(err)
		}
	}
	return broadcast, change
}

// BenchmarkFanOut compares a change of an object with a broadcast, to as many clients.
// BenchmarkFanOut in package mirror includes the connections and what clients do.
func BenchmarkFanOut(b *testing.B) {
	for _, n := range []int{1, 1000} {
		broadcast, change := fanOut(b, n)
		for name, f := range map[string]func(){"broadcast": broadcast, "change": change} {
			b.Run(fmt.Sprintf("%s to %d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					f()
				}
			})
		}
	}
}

// rejoiner returns a function that joins a map of 1,000 items at its position, and leaves.
func rejoiner(t testing.TB) (rejoin func()) {
	m, _ := filled(t, 1000)
	h := state.New(m).Maps(state.Config{})
	gather(t, h, 1)
	tops, err := m.Tops(t.Context(), []string{simTopic})
	if err != nil {
		t.Fatal(err)
	}
	return joiner(t, h, `{"$state":{"since":"`+tops[0].String()+`"}}`)
}

// joiner returns a function that joins a handler, receives the reply and one frame, and leaves.
func joiner(t testing.TB, h *channel.Handler, params string) (join func()) {
	var p serializer.Payload
	_ = p.UnmarshalJSON([]byte(params)) // it never fails
	ref := serializer.StringRef("1")
	s := &sink{ps: pubsub.New(nil), ser: serializer.V2()}
	var workers mailbox.Workers
	t.Cleanup(workers.Wait)
	return func() {
		before := s.frames.Load()
		c := channelhost.Start(s, channelhost.Join{
			Handler: h, MaxMailbox: 1 << 20, Workers: &workers,
			Message: serializer.Message{JoinRef: ref, Ref: ref, Topic: simTopic, Event: serializer.EventJoin, Payload: p},
		})
		workers.Wait()
		c.Close(channel.ErrClosed)
		c.Wait()
		if n := s.frames.Load() - before; n != 2 {
			t.Fatalf("%d frames, want the reply and synced", n)
		}
	}
}

// BenchmarkRejoin joins at the object's position, and for comparison, a channel that sends as much.
func BenchmarkRejoin(b *testing.B) {
	reply := serializer.Value(json.RawMessage(`{"$state":{"kind":"map","id":"k2m9k2m9k2m9","recovered":true,` +
		`"pos":"k2m9k2m9k2m9-1000-0z0z","limits":{"value":65536,"items":100000,"batch":100}}}`))
	synced := serializer.Value(json.RawMessage(`{"$pos":"k2m9k2m9k2m9-1000-0z0z"}`))
	plain := channel.Define(func(_ *struct{}, _ context.Context, c *channel.Channel, _ any) (any, error) {
		channelhost.Post(c, 1)
		return reply, nil
	}, channel.Info(func(_ *struct{}, _ context.Context, c *channel.Channel, _ int) error {
		return c.Push("synced", synced)
	}))
	for _, test := range []struct {
		name string
		join func()
	}{{"object", rejoiner(b)}, {"channel", joiner(b, plain, `{"$state":{}}`)}} {
		b.Run(test.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				test.join()
			}
		})
	}
}

// heap returns the size of what is in use.
func heap() int64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
