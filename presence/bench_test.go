package presence_test

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/presence"
	"bennu.example/pubsub"
)

const large = 10_000

// sink is a subscriber that does nothing: what a diff costs without its sockets.
type sink struct{}

func (sink) Deliver(*pubsub.Broadcast) error { return nil }

func fill(b *testing.B, p *presence.Presence, n int) []*owner {
	b.Helper()
	owners := make([]*owner, n)
	for i := range owners {
		owners[i] = new(owner)
		if _, err := p.TrackFor(owners[i], topic, fmt.Sprintf("user-%05d", i), device{"device": "tab"}); err != nil {
			b.Fatal(err)
		}
	}
	return owners
}

// BenchmarkTrack is a track and an untrack on one node: in a room of one, and in one of 10,000; heard by a subscriber or by nobody.
func BenchmarkTrack(b *testing.B) {
	for _, bench := range []struct {
		name  string
		size  int
		heard bool
		meta  any
	}{{"alone", 0, true, nil}, {"in 10000", large, true, json.RawMessage(`{"device":"tab"}`)}, {"in 10000 unheard", large, false, json.RawMessage(`{"device":"tab"}`)}} {
		b.Run(bench.name, func(b *testing.B) {
			ps := pubsub.New(nil)
			p := presence.New(ps, nil)
			defer p.Close(context.Background())
			fill(b, p, bench.size)
			if bench.heard {
				defer ps.Subscribe(topic, sink{}).Cancel()
			}
			b.ReportAllocs()
			for b.Loop() {
				o := new(owner)
				if _, err := p.TrackFor(o, topic, "someone", bench.meta); err != nil {
					b.Fatal(err)
				}
				o.end()
			}
		})
	}
}

// BenchmarkUpdate is an update in a room of 10,000.
func BenchmarkUpdate(b *testing.B) {
	ps := pubsub.New(nil)
	p := presence.New(ps, nil)
	defer p.Close(context.Background())
	o := fill(b, p, large)[5000]
	defer ps.Subscribe(topic, sink{}).Cancel()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.UpdateFor(o, topic, "user-05000", nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkList is the list of a room of 10,000, as a value and as what Push sends.
func BenchmarkList(b *testing.B) {
	p := presence.New(pubsub.New(nil), nil)
	defer p.Close(context.Background())
	fill(b, p, large)
	b.Run("value", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p.List(topic)
		}
	})
	b.Run("payload", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			b.SetBytes(int64(p.PayloadSize(topic)))
		}
	})
	b.Run("page of 100", func(b *testing.B) {
		b.ReportAllocs()
		_, next := p.Page(topic, "", 5000)
		for b.Loop() {
			p.Page(topic, next, 100)
		}
	})
}

// BenchmarkClient is what a client does in a room of 10,000: reads the state, syncs with another, merges a diff.
func BenchmarkClient(b *testing.B) {
	p := presence.New(pubsub.New(nil), nil)
	defer p.Close(context.Background())
	owners := fill(b, p, large)
	before := p.List(topic)
	raw, err := json.Marshal(before)
	if err != nil {
		b.Fatal(err)
	}
	for i := range 100 {
		owners[i*100].end()
	}
	after := p.List(topic)
	b.Run("read state", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(raw)))
		for b.Loop() {
			var s presence.State
			if err := s.UnmarshalJSON(raw); err != nil || s.Len() != large {
				b.Fatal(err)
			}
		}
	})
	b.Run("sync", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if s := presence.Sync(before, after, nil, nil); s.Len() != large-100 {
				b.Fatal(s.Len())
			}
		}
	})
	c := presence.NewLooseClient(zerolog.Nop())
	c.Receive("1", presence.EventState, string(raw))
	b.Run("diff", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c.Receive("1", presence.EventDiff, `{"joins":{"x":{"metas":[{"phx_ref":"1"}]}},"leaves":{}}`)
			c.Receive("1", presence.EventDiff, `{"joins":{},"leaves":{"x":{"metas":[{"phx_ref":"1"}]}}}`)
		}
	})
	b.Run("pure diff", func(b *testing.B) {
		d := presence.Diff{}
		b.ReportAllocs()
		for b.Loop() {
			presence.Merge(before, d, nil, nil)
		}
	})
}

// BenchmarkMemory reports the bytes of heap for each presence: in one room, and alone in a room; tracked here, and known from another node.
func BenchmarkMemory(b *testing.B) {
	const n = 50_000
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for _, bench := range []struct {
		name   string
		rooms  int
		remote bool
	}{{"one room", 1, false}, {"rooms of one", n, false}, {"one room remote", 1, true}} {
		b.Run(bench.name, func(b *testing.B) {
			for b.Loop() {
				topics := make([]string, bench.rooms)
				for i := range topics {
					topics[i] = fmt.Sprint("room:", i)
				}
				keys, metas := make([]string, n), make([]json.RawMessage, n)
				owners := make([]*owner, n)
				for i := range keys {
					keys[i], metas[i], owners[i] = fmt.Sprintf("user-%05d", i), json.RawMessage(`{"device":"tab","online_at":1700000000}`), new(owner)
				}
				var before uint64
				var p *presence.Presence
				track := func(p *presence.Presence) {
					for i, key := range keys {
						if _, err := p.TrackFor(owners[i], topics[i%bench.rooms], key, metas[i]); err != nil {
							b.Fatal(err)
						}
					}
				}
				if bench.remote {
					from := presence.New(pubsub.New(new(network).adapter("a")), nil)
					track(from)
					from.DeltaSize()
					to := presence.New(pubsub.New(new(network).adapter("b")), nil)
					before = heap()
					to.MergeFrom(from)
					b.ReportMetric(float64(heap()-before)/n, "B/presence")
					if to.Count(topics[0]) != n {
						b.Fatal(to.Count(topics[0]))
					}
					from.Close(context.Background())
					p = to
				} else {
					p = presence.New(pubsub.New(nil), nil)
					before = heap()
					track(p)
					b.ReportMetric(float64(heap()-before)/n, "B/presence")
				}
				p.Close(context.Background())
				runtime.KeepAlive(owners)
				runtime.KeepAlive(keys)
			}
		})
	}
}

// BenchmarkReplication reports the bytes that a join costs between nodes: one by one, and a thousand at once.
func BenchmarkReplication(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := presence.New(pubsub.New(new(network).adapter("node-1.example")), nil)
			defer p.Close(context.Background())
			size := 0
			o := new(owner)
			for i := 0; b.Loop(); i++ {
				for j := range n {
					if _, err := p.TrackFor(o, topic, fmt.Sprintf("user-%d-%d", i, j), json.RawMessage(`{"device":"tab","online_at":1700000000}`)); err != nil {
						b.Fatal(err)
					}
				}
				size = p.DeltaSize()
				b.StopTimer()
				p.UntrackAll(o)
				p.DeltaSize()
				b.StartTimer()
			}
			b.ReportMetric(float64(size)/float64(n), "B/join")
		})
	}
}

// BenchmarkDelay is from a track on one node to its diff on another, over a network without delays, with a pause after each.
func BenchmarkDelay(b *testing.B) {
	var net network
	nodes := []*presence.Presence{}
	heard := make(chan struct{}, 1)
	for i := range 2 {
		ps := pubsub.New(net.adapter(fmt.Sprint(i)))
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { ps.Run(ctx); close(done) }()
		defer func() { cancel(); <-done }()
		p := presence.New(ps, &presence.Config{Delay: time.Millisecond})
		defer p.Close(context.Background())
		nodes = append(nodes, p)
		if i == 1 {
			defer ps.Subscribe(topic, tell(heard)).Cancel()
		}
	}
	for i := 0; ; i++ {
		if members, _ := nodes[0].Members(); members == 1 {
			break
		}
		runtime.Gosched()
	}
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		<-time.After(2 * time.Millisecond)
		b.StartTimer()
		begin := time.Now()
		if _, err := nodes[0].TrackFor(new(owner), topic, fmt.Sprint(i), nil); err != nil {
			b.Fatal(err)
		}
		<-heard
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
}

type tell chan struct{}

func (t tell) Deliver(*pubsub.Broadcast) error { t <- struct{}{}; return nil }
