package channel_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/mailbox"
	"bennu.example/pubsub"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// sink is a connection that takes everything and keeps nothing.
type sink struct {
	channelhost.Carrier // panics if a method is called that is not defined below
	ps                  *pubsub.PubSub
	frames              atomic.Int64
	want                int64 // frames after which all is closed; zero: none
	all                 chan struct{}
	answered            chan struct{}
}

func (s *sink) Serializer() serializer.Serializer             { return serializer.V2() }
func (s *sink) PubSub() *pubsub.PubSub                        { return s.ps }
func (s *sink) Congested(channelhost.Channel) bool            { return false }
func (s *sink) Batch(f func())                                { f() }
func (s *sink) Drained(channelhost.Channel) bool              { return true }
func (s *sink) Context() context.Context                      { return context.Background() }
func (s *sink) ClientID() string                              { return "" }
func (s *sink) End(channelhost.Channel, ...*serializer.Frame) {}
func (*sink) Arrive(context.Context, string) error            { return nil }
func (s *sink) Answered()                                     { s.answered <- struct{}{} }
func (s *sink) Ended()                                        {}
func (s *sink) Crashed(channelhost.Channel, string, error)    {}
func (s *sink) Log(channelhost.Channel, string, error)        {}
func newSink(ps *pubsub.PubSub) *sink {
	return &sink{ps: ps, answered: make(chan struct{}, 1), all: make(chan struct{})}
}

func (s *sink) Send(*serializer.Frame, transport.Delivery) error {
	if s.frames.Add(1) == s.want {
		close(s.all)
	}
	return nil
}

func (s *sink) join(h *channel.Handler, w *mailbox.Workers, params serializer.Payload) channelhost.Channel {
	c := channelhost.Start(s, channelhost.Join{
		Handler: h, MaxMailbox: 1 << 20, Workers: w,
		Message: serializer.Message{
			JoinRef: `"1"`, Ref: `"1"`, Topic: "room:1", Event: serializer.EventJoin, Payload: params,
		},
	})
	<-s.answered
	return c
}

// ask returns the params of a join that asks for history.
func ask(tb testing.TB, since string) serializer.Payload {
	tb.Helper()
	member := map[string]any{}
	if since != "" {
		member["since"] = since
	}
	p, err := serializer.Value(map[string]any{"$history": member}).Encoded()
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// kinds are the topics and joins that are compared.
func kinds(tb testing.TB) map[string]struct {
	ps     *pubsub.PubSub
	params serializer.Payload
} {
	tb.Helper()
	return map[string]struct {
		ps     *pubsub.PubSub
		params serializer.Payload
	}{
		"off":      {pubsub.New(nil), serializer.Payload{}},
		"recorded": {recordedTopic(history.Keep{}), serializer.Payload{}},
		"asked":    {recordedTopic(history.Keep{}), ask(tb, "")},
	}
}

// crowd joins n channels and waits until they are live.
func crowd(tb testing.TB, ps *pubsub.PubSub, params serializer.Payload, n int) (end func()) {
	tb.Helper()
	h := plainRoom()
	w := new(mailbox.Workers)
	sinks := make([]*sink, n)
	all := make([]channelhost.Channel, n)
	for i := range all {
		sinks[i] = newSink(ps)
		all[i] = sinks[i].join(h, w, params)
	}
	time.Sleep(20 * time.Millisecond) // a channel that is not live yet makes the first rounds slower only
	return func() {
		for _, c := range all {
			c.Close(context.Canceled)
			c.Wait()
		}
	}
}

// TestFanOutOfRecordsAllocatesNothingPerChannel compares the broadcast of a record to many channels
// with that to one.
func TestFanOutOfRecordsAllocatesNothingPerChannel(t *testing.T) {
	allocs := func(n int) float64 {
		ps := recordedTopic(history.Keep{})
		end := crowd(t, ps, ask(t, ""), n)
		defer end()
		payload, err := serializer.Value(map[string]int{"n": 1}).Encoded()
		if err != nil {
			t.Fatal(err)
		}
		return testing.AllocsPerRun(500, func() {
			if err := ps.Broadcast(context.Background(), "room:1", "msg", payload); err != nil {
				t.Fatal(err)
			}
		})
	}
	if one, many := allocs(1), allocs(200); many > one+1 {
		t.Errorf("%v allocations for 200 channels, %v for one", many, one)
	}
}

// BenchmarkRecordFanOut broadcasts to 1,000 live channels, whose sockets take every frame. The
// budget of a position is 5 ns per channel.
func BenchmarkRecordFanOut(b *testing.B) {
	const n = 1000
	for name, kind := range kinds(b) {
		b.Run(name, func(b *testing.B) {
			end := crowd(b, kind.ps, kind.params, n)
			defer end()
			b.ReportAllocs()
			for b.Loop() {
				if err := kind.ps.Broadcast(context.Background(), "room:1", "msg", map[string]int{"n": 1}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/channel")
		})
	}
}

// BenchmarkRejoin joins and ends. With "top", the position is that of the newest record, and with
// "100", 100 records are replayed.
func BenchmarkRejoin(b *testing.B) {
	ps := recordedTopic(history.Keep{})
	var positions []string
	for n := range 101 {
		pos, err := ps.Append(b.Context(), "room:1", "msg", map[string]int{"n": n})
		if err != nil {
			b.Fatal(err)
		}
		positions = append(positions, pos.String())
	}
	watcher := crowd(b, ps, serializer.Payload{}, 1) // the topic stays in use
	defer watcher()
	for _, kind := range []struct {
		name   string
		ps     *pubsub.PubSub
		params serializer.Payload
		frames int64
	}{
		{"off", pubsub.New(nil), serializer.Payload{}, 1}, {"plain", ps, serializer.Payload{}, 1},
		{"top", ps, ask(b, positions[100]), 1}, {"100", ps, ask(b, positions[0]), 101},
	} {
		b.Run(kind.name, func(b *testing.B) {
			h, w := plainRoom(), new(mailbox.Workers)
			b.ReportAllocs()
			for b.Loop() {
				s := newSink(kind.ps)
				s.want = kind.frames
				c := s.join(h, w, kind.params)
				<-s.all
				c.Close(context.Canceled)
				c.Wait()
				if n := s.frames.Load(); n != kind.frames {
					b.Fatal(n, "frames")
				}
			}
		})
	}
}
