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

const (
	large      = 10_000
	onlineMeta = `{"device":"tab","online_at":1700000000}`
)

// sink is a subscriber that does nothing. With it, a benchmark measures a diff without the sockets.
type sink struct{}

func (sink) Deliver(*pubsub.Broadcast) error { return nil }

// fill tracks n keys, each by an owner of its own.
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

// BenchmarkTrack measures a track and an untrack on one node: in an empty room and in one of
// 10,000, with and without a subscriber.
func BenchmarkTrack(b *testing.B) {
	for _, bench := range []struct {
		name       string
		size       int
		subscribed bool
		meta       any
	}{
		{"alone", 0, true, nil},
		{"in 10000", large, true, json.RawMessage(`{"device":"tab"}`)},
		{"in 10000 without subscriber", large, false, json.RawMessage(`{"device":"tab"}`)},
	} {
		b.Run(bench.name, func(b *testing.B) {
			ps := pubsub.New(nil)
			p := presence.New(ps, presence.Config{})
			defer p.Close(context.Background())
			fill(b, p, bench.size)
			if bench.subscribed {
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

// BenchmarkUpdate measures an update in a room of 10,000.
func BenchmarkUpdate(b *testing.B) {
	ps := pubsub.New(nil)
	p := presence.New(ps, presence.Config{})
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

// BenchmarkList measures the list of a room of 10,000, as a State, as the payload of Push and as a
// page.
func BenchmarkList(b *testing.B) {
	p := presence.New(pubsub.New(nil), presence.Config{})
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
			b.SetBytes(int64(len(p.Payload(topic))))
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

// BenchmarkClient measures a client in a room of 10,000. It parses the state, computes the
// difference to another state, and merges diffs.
func BenchmarkClient(b *testing.B) {
	p := presence.New(pubsub.New(nil), presence.Config{})
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

// BenchmarkMemory reports the bytes of heap for each presence: all in one room, each in a room of
// its own, and tracked on another node.
func BenchmarkMemory(b *testing.B) {
	const n = 50_000
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
					keys[i], metas[i], owners[i] = fmt.Sprintf("user-%05d", i), json.RawMessage(onlineMeta), new(owner)
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
					from := presence.New(pubsub.New(new(network).adapter("a")), presence.Config{})
					track(from)
					from.DeltaSize()
					to := presence.New(pubsub.New(new(network).adapter("b")), presence.Config{})
					before = heapSize()
					to.MergeFrom(from)
					b.ReportMetric(float64(heapSize()-before)/n, "B/presence")
					if to.Count(topics[0]) != n {
						b.Fatal(to.Count(topics[0]))
					}
					from.Close(context.Background())
					p = to
				} else {
					p = presence.New(pubsub.New(nil), presence.Config{})
					before = heapSize()
					track(p)
					b.ReportMetric(float64(heapSize()-before)/n, "B/presence")
				}
				p.Close(context.Background())
				runtime.KeepAlive(owners)
				runtime.KeepAlive(keys)
			}
		})
	}
}

// BenchmarkReplication reports the bytes that are sent to other nodes for a join, and for each of a
// thousand joins at once.
func BenchmarkReplication(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := presence.New(pubsub.New(new(network).adapter("node-1.example")), presence.Config{})
			defer p.Close(context.Background())
			size := 0
			o := new(owner)
			for i := 0; b.Loop(); i++ {
				for j := range n {
					key := fmt.Sprintf("user-%d-%d", i, j)
					if _, err := p.TrackFor(o, topic, key, json.RawMessage(onlineMeta)); err != nil {
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

// BenchmarkDelay measures the time from a track on one node to its diff on another, over a network
// without delays. There is a pause after each track.
func BenchmarkDelay(b *testing.B) {
	var net network
	nodes := []*presence.Presence{}
	received := make(chan struct{}, 1)
	for i := range 2 {
		ps := pubsub.New(net.adapter(fmt.Sprint(i)))
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { ps.Run(ctx); close(done) }()
		defer func() { cancel(); <-done }()
		p := presence.New(ps, presence.Config{Delay: time.Millisecond})
		defer p.Close(context.Background())
		nodes = append(nodes, p)
		if i == 1 {
			defer ps.Subscribe(topic, signaling(received)).Cancel()
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
		<-received
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
}

// signaling is a subscriber that sends to the channel for each broadcast.
type signaling chan struct{}

func (s signaling) Deliver(*pubsub.Broadcast) error { s <- struct{}{}; return nil }

// BenchmarkPushWhileJoining measures the payloads of Push while 3,000 keys join, each of which is
// pushed the state after its join. One operation is the whole crowd.
func BenchmarkPushWhileJoining(b *testing.B) {
	const size = 3000
	b.ReportAllocs()
	for b.Loop() {
		p := presence.New(pubsub.New(nil), presence.Config{})
		o := new(owner)
		for i := range size {
			if _, err := p.TrackFor(o, topic, userName(i), device{"device": "tab"}); err != nil {
				b.Fatal(err)
			}
			p.Payload(topic)
		}
		p.Close(context.Background())
	}
}
